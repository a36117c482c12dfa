"""Markdown tables of one evaluation: n and interval of every number, partial sections marked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from eval.protocol import Protocol, Summary
from rm.errors import visible

_MARKUP = re.compile(r"[\\`*|<>~$&]|(?<!\w)_|_(?!\w)")
_ESCAPED = re.compile(r"\\([\\`*|<>~$&_])")
_TABLE = re.compile(r"(?:^\|.*$\n?)+", re.MULTILINE)
_CELL_END = re.compile(r"(?<!\\)\|")
NO_INTERVAL = "none"
ABSENT = "—"
PARTIAL = " (partial)"

Intervals = dict[tuple[str, str], tuple[float, float]]


def markdown(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Render one Markdown table, with cells escaped by `markdown_text`.

    >>> print(markdown(["name", "n"], [["a", 1]]))
    | name | n |
    |---|---|
    | a | 1 |
    """
    lines = [list(header), *rows]
    text = ["| " + " | ".join(markdown_text(str(c)) for c in line) + " |" for line in lines]
    return "\n".join([text[0], "|" + "---|" * len(header), *text[1:]])


def markdown_text(text: str) -> str:
    r"""Escape `text` so that Markdown shows it unchanged, in one table cell.

    Escapes `\ ` * | < > ~ $ &`, `_` at the edge of a word, and `](` of a link or image. Line breaks
    and other control characters are spelt out.
    """
    return _MARKUP.sub(lambda found: f"\\{found[0]}", visible(text)).replace("](", "]\\(")


def plain_text(text: str) -> str:
    """Undo `markdown_text`, except for control characters, which stay spelt out."""
    return _ESCAPED.sub(r"\1", text.replace("]\\(", "]("))


def for_terminal(text: str, without: Sequence[str] = ()) -> str:
    """Return Markdown with its tables as aligned plain columns; empty columns are left out.

    `without`: columns whose headers begin with one of these are left out too.

    >>> print(for_terminal(markdown(["name", "n", "note"], [["a", 10, ""], ["b c", 2, ""]])))
    name  n
    a     10
    b c   2
    """
    return _TABLE.sub(lambda found: _columns(found[0], tuple(without)), text)


def _columns(table: str, without: tuple[str, ...]) -> str:
    header, _, *rows = (
        [plain_text(cell.strip()) for cell in _CELL_END.split(line)[1:-1]]
        for line in table.splitlines()
    )
    columns = [
        [name, *cells]
        for name, *cells in zip(header, *rows, strict=True)
        if any(cells) and not name.startswith(without)
    ]
    widths = [max(map(len, column)) for column in columns]
    lines = zip(*columns, strict=True)
    padded = (map(str.ljust, line, widths) for line in lines)
    return "\n".join("  ".join(cells).rstrip() for cells in padded)


def percent(value: float | None) -> str:
    """Format a fraction as percent with one decimal; None as a dash."""
    return ABSENT if value is None else f"{100 * value:.1f}"


def marked(name: str, partial: dict[str, list[str]], *, whole: bool = False) -> str:
    """Return a section's name, marked if its rows are not the official ones.

    `whole`: the name is of a value over all sections; it is marked if any section is partial.
    """
    return name + (PARTIAL if name in partial or (whole and partial) else "")


def average_note(partial: dict[str, list[str]]) -> str:
    """Name the partial sections of an average; "" if there are none."""
    return f"partial: {', '.join(partial)}" if partial else ""


def evaluation_tables(
    summary: Summary, intervals: pd.DataFrame, protocol: Protocol, *, resamples: int
) -> str:
    """Render one evaluation: head lines, then tables of sections, subsets and difficulties.

    `intervals` has columns level, name, mean, low, high (fractions), as from `section_intervals`.
    A score without a row there gets the interval "none".
    """
    known: Intervals = {
        (str(row.level), str(row.name)): (float(row.low), float(row.high))  # type: ignore[arg-type]
        for row in intervals.itertuples(index=False)
    }
    parts = [*_head(summary, resamples), "", _section_table(summary, known, protocol)]
    if any(len(weights) > 1 for weights in protocol.sections.values()):
        parts += ["", _subset_table(summary, known, protocol)]
    if "difficulties" in summary:
        parts += ["", _difficulty_table(summary, known)]
    return "\n".join(parts) + "\n"


def _head(summary: Summary, resamples: int) -> list[str]:
    cut = f"{summary['truncated']} of {summary['rows']} rows truncated"
    if summary.get("special_text"):
        cut += f", {summary['special_text']} contain the name of a special token"
    counted = f"{summary['pairs']} {'comparisons' if 'items' in summary else 'pairs'}"
    return [
        f"{summary['benchmark']}: {counted}, {summary['ties']} ties ({summary['tie_rule']}), "
        f"{cut}.",
        "One checkpoint (seeds: 1). Intervals: 95%, percentile bootstrap over rows within each "
        f"subset (whole clusters where rows share one), {resamples} resamples.",
    ]


def _section_table(summary: Summary, known: Intervals, protocol: Protocol) -> str:
    partial, sections = summary["partial"], summary["sections"]
    rows = [
        [
            marked(name, partial),
            percent(value),
            interval_text(known.get(("section", name)), value),
            sum(_rows(summary["subsets"].get(subset)) for subset in protocol.sections[name]),
            "; ".join(partial.get(name, [])),
        ]
        for name, value in sections.items()
    ]
    average = summary["average"]
    label = f"average of {sum(value is not None for value in sections.values())} sections"
    extent = sum(map(_rows, summary["subsets"].values()))
    interval = interval_text(known.get(("average", "average")), average)
    rows.append(
        [
            marked(label, partial, whole=True),
            percent(average),
            interval,
            extent,
            average_note(partial),
        ]
    )
    if "overall" in summary:
        interval = interval_text(known.get(("overall", "overall")), summary["overall"])
        label = marked("overall: share of all pairs", partial, whole=True)
        rows.append([label, percent(summary["overall"]), interval, extent, ""])
    return markdown(["section", "accuracy %", "95% interval", "n", "note"], rows)


def _rows(entry: dict[str, Any] | None) -> int:
    """Rows of a subset: pairs, or items if an item has several comparisons."""
    return 0 if entry is None else entry.get("items", entry["pairs"])


def interval_text(interval: tuple[float, float] | None, value: float | None) -> str:
    """Format an interval in percent: "none" without an interval, a dash without a score."""
    if value is None:
        return ABSENT
    return f"[{percent(interval[0])}, {percent(interval[1])}]" if interval else NO_INTERVAL


def _subset_table(summary: Summary, known: Intervals, protocol: Protocol) -> str:
    rows = []
    for section, weights in protocol.sections.items():
        for name, weight in weights.items():
            entry = summary["subsets"].get(name)
            value = None if entry is None else entry["accuracy"]
            interval = interval_text(known.get(("subset", name)), value)
            ties = ABSENT if entry is None else entry["ties"]
            label = marked(section, summary["partial"])
            rows.append([name, label, percent(value), interval, _rows(entry), f"{weight:g}", ties])
    return markdown(
        ["subset", "section", "accuracy %", "95% interval", "n", "weight in section", "ties"], rows
    )


def _difficulty_table(summary: Summary, known: Intervals) -> str:
    extent = sum(map(_rows, summary["subsets"].values()))
    rows = [
        [
            marked(name, summary["partial"], whole=True),
            percent(value),
            interval_text(known.get(("difficulty", name)), value),
            extent,
        ]
        for name, value in summary["difficulties"].items()
    ]
    return markdown(["difficulty (mean of sections)", "accuracy %", "95% interval", "n"], rows)
