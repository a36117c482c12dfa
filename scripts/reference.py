"""The configuration's reference page: python -m scripts.reference (`make docs`).

Writes docs/configuration.md from conf/: every command's file, every group, every option, every key
with its value and the comment that stands beside it. A test compares the page with this text.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.settings.configuration import CONF
from rm.files import atomic_write_text

PAGE = CONF.parent / "docs" / "configuration.md"
INTRODUCTION = """# Configuration

Made from `conf/` by `make docs`: change the files there, not this page.

A command reads one file of `conf/` and one file of each group: `group=option` chooses another,
`key=value` sets a value, `group.key=value` one inside a group. `???` has to be given;
`+group.key=value` adds a key that a file leaves open.
"""


@dataclass(frozen=True)
class Key:
    """One value of a file: its dotted name, the text of its value, the comment beside it."""

    name: str
    value: str
    comment: str


@dataclass(frozen=True)
class Option:
    """One file of conf/: what stands above its keys, what it builds on, its keys."""

    name: str
    about: str
    defaults: tuple[str, ...]
    keys: tuple[Key, ...]


def read_option(path: Path) -> Option:
    """Read one file of conf/ with its comments."""
    text = path.read_text()
    node = yaml.compose(text)
    keys = tuple(_keys(node, text.splitlines())) if isinstance(node, yaml.MappingNode) else ()
    content = yaml.safe_load(text)
    defaults = content.get("defaults", []) if isinstance(content, dict) else []
    return Option(path.stem, _about(text), tuple(_default(item) for item in defaults), keys)


def _about(text: str) -> str:
    """The comment lines at the top of a file, but Hydra's @package, ready for Markdown."""
    above = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    lines = [line.removeprefix("#").strip() for line in above]
    return "\n".join(line for line in lines if not line.startswith("@package")).replace("<", "\\<")


def _default(item: Any) -> str:
    """One entry of a defaults list as it would be given on the command line."""
    if isinstance(item, str):
        return item
    ((name, value),) = item.items()
    name = re.sub(r"^(override |optional )*/?", "", name)
    return f"{name}={'null' if value is None else value}"


def _keys(node: yaml.MappingNode, lines: list[str], prefix: str = "") -> Iterator[Key]:
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        if name == "defaults":
            continue
        is_block = isinstance(value, yaml.CollectionNode) and not value.flow_style
        if is_block and isinstance(value, yaml.MappingNode):
            comment = _comment(lines, key.end_mark)
            if comment:
                yield Key(name, "", comment)
            yield from _keys(value, lines, f"{name}.")
        elif is_block:
            items = ", ".join(str(item.value) for item in value.value)
            yield Key(name, f"[{items}]", _comment(lines, key.end_mark))
        else:
            text = lines[value.start_mark.line][value.start_mark.column :]
            end = value.end_mark.column - value.start_mark.column
            yield Key(name, text[:end], _comment(lines, value.end_mark))


def _comment(lines: list[str], end: yaml.Mark) -> str:
    """The comment after `end` on its line, and the lines below that go on in its column."""
    found = re.search(r"(?:^|\s)#\s*(.*)", lines[end.line][end.column :])
    if found is None:
        return ""
    words, column = [found[1]], lines[end.line].index("#", end.column)
    for line in lines[end.line + 1 :]:
        if line.strip() and line.index(line.strip()) == column and line[column] == "#":
            words.append(line[column + 1 :].strip())
        else:
            break
    return " ".join(words)


def groups() -> dict[str, list[Option]]:
    """Group → its options, those that others build on (_base) last."""
    folders = sorted({path.parent for path in CONF.rglob("*.yaml")} - {CONF, CONF / "local"})
    return {
        str(folder.relative_to(CONF)): [
            read_option(path)
            for path in sorted(folder.glob("*.yaml"), key=lambda p: (p.stem[0] == "_", p.stem))
        ]
        for folder in folders
    }


def _section(option: Option, title: str) -> str:
    lines = [f"### {title}", "", option.about]
    builds = [f"`{word}`" for word in option.defaults if word != "_self_"]
    if builds:
        lines += ["", f"Builds on: {', '.join(builds)}."]
    if option.keys:
        lines += ["", "| Key | Value | |", "|---|---|---|"]
        lines += [_row(key) for key in option.keys]
    return "\n".join(lines) + "\n"


def _row(key: Key) -> str:
    """One line of a table; a bar would end a cell."""
    value = f"`{key.value}`" if key.value else ""
    name, value, comment = (text.replace("|", "\\|") for text in (key.name, value, key.comment))
    return f"| `{name}` | {value} | {comment} |"


def page() -> str:
    """The text of docs/configuration.md."""
    commands = [read_option(path) for path in sorted(CONF.glob("*.yaml"))]
    parts = [INTRODUCTION, "## Commands\n"]
    parts += [_section(option, f"conf/{option.name}.yaml") for option in commands]
    for group, options in groups().items():
        named = ", ".join(f"`{option.name}`" for option in options if option.name[0] != "_")
        parts.append(f"## {group}\n\n{named}\n")
        parts += [_section(option, f"{group}={option.name}") for option in options]
    return "\n".join(parts)


def main() -> None:
    """Write the page and say where it is."""
    atomic_write_text(PAGE, page())
    print(PAGE)


if __name__ == "__main__":
    main()
