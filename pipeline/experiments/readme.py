"""README's table of answers, from the committed results (make readme)."""

from __future__ import annotations

import csv
from pathlib import Path

from eval.spreadsheet import restored
from rm.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
ANSWERS = Path("results/cpu/tables/answers.csv")
FIGURE = Path("results/cpu/figures/figure12.png")
COLUMNS = {
    "question": "Question",
    "paper": "Paper, 2–3B",
    "generated": "Generated pairs, 135M",
    "gemma": "Gemma 3 270M",
    "real": "Real pairs",
}
"""Columns of `ANSWERS`, text cells ready to print, and their headers in README."""
LONGEST = 9
"""Most rows of the table: a page that answers, not a report."""
BEGIN, END = "<!-- answers, written by make readme -->", "<!-- end of answers -->"


def answers(root: Path) -> str:
    """Return README's answers as Markdown: the table of `ANSWERS` and, where it is drawn, `FIGURE`.

    Without the file: one line that says so. Raises InputError for other columns or more than
    `LONGEST` rows.
    """
    if not (root / ANSWERS).is_file():
        return (
            "The confirmatory results are being computed. "
            "[results/README.md](results/README.md) lists the exploratory ones."
        )
    with (root / ANSWERS).open(newline="") as lines:
        head, *rows = [[restored(cell) for cell in row] for row in csv.reader(lines)]
    if head != list(COLUMNS) or len(rows) > LONGEST:
        raise InputError(
            f"{ANSWERS}: needs the columns {', '.join(COLUMNS)} and at most {LONGEST} rows, "
            f"and has {', '.join(head)} and {len(rows)} rows"
        )
    cells = [[*COLUMNS.values()], ["---"] * len(COLUMNS), *rows]
    table = "\n".join(f"| {' | '.join(cell or '–' for cell in row)} |" for row in cells)
    drawn = (root / FIGURE).is_file()
    return f"{table}\n\n![Effects by method and section]({FIGURE})" if drawn else table


def updated(text: str, content: str) -> str:
    """Return README's text with `content` between the lines `BEGIN` and `END`.

    Raises InputError unless each of the two stands there once.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise InputError(f"README.md needs the lines {BEGIN} and {END}, once each")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{content}\n{END}{rest.split(END)[1]}"
