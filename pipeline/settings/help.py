"""What `python -m scripts.COMMAND --help` prints: the docstring, keys with comments, groups."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CONF = Path(__file__).resolve().parents[2] / "conf"
WIDTH = 100
GLOBAL = "# @package _global_"
END = """key=value sets a key, group=option chooses an option, group.key=value sets one of its keys.
conf/GROUP/OPTION.yaml holds an option's keys. --cfg job prints the composed configuration and
starts nothing."""


def command_help(name: str, about: str) -> str:
    """The help of the command that reads conf/<name>.yaml; `about` is its docstring."""
    files = list(_chain(name))
    groups = {key: option for file in reversed(files) for key, option in _groups(file).items()}
    groups = {
        key: option.replace("${profile}", groups.get("profile", ""))
        for key, option in groups.items()
    }
    chosen = [CONF / group / f"{option}.yaml" for group, option in groups.items()]
    files += [path for path in chosen if path.is_file() and path.read_text().startswith(GLOBAL)]
    parts = [about.strip()]
    for file in files:
        keys = _keys(file)
        parts += [f"Keys of conf/{file.relative_to(CONF)}:\n{keys}"] if keys else []
    if groups:
        options = [_options(group, default) for group, default in groups.items()]
        parts.append("\n".join(["Groups (* is the default):", *options]))
    return "\n\n".join([*parts, END])


def _chain(name: str) -> Iterator[Path]:
    """The command's file, then those that it builds on."""
    path = CONF / f"{name}.yaml"
    yield path
    for item in _defaults(path):
        if isinstance(item, str) and item != "_self_":
            yield from _chain(item)


def _defaults(path: Path) -> list[Any]:
    return list(yaml.safe_load(path.read_text())["defaults"])


def _groups(path: Path) -> dict[str, str]:
    """Group → the option that the file names, without Hydra's and a machine's own groups."""
    named = [pair for item in _defaults(path) if isinstance(item, dict) for pair in item.items()]
    return {key: str(value) for key, value in named if (CONF / key).is_dir() and key != "hydra"}


def _keys(path: Path) -> str:
    """The file's lines with comments, without its defaults list and Hydra's own settings."""
    lines, inside = [], False
    for line in path.read_text().splitlines():
        if line and not line.startswith((" ", "-")):
            inside = line.startswith(("defaults:", "hydra:", "#"))
        if line and not inside:
            lines.append(f"  {line}")
    return "\n".join(lines)


def _options(group: str, default: str) -> str:
    names = sorted(path.stem for path in (CONF / group).glob("*.yaml") if path.stem[0] != "_")
    words = " ".join(f"{name}*" if name == default else name for name in names)
    return textwrap.fill(words, WIDTH, initial_indent=f"  {group:12}", subsequent_indent=" " * 14)
