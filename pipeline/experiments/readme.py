"""README's answers, table and figure, from the committed results (make readme)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis import figure12
from analysis.answers import FOLDERS, build, interim
from analysis.tables import GROUP
from rm.errors import InputError
from rm.files import read_json

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path("results/cpu")
FIGURE = Path("results/figure12.png")
COLUMNS = {
    "question": "Question",
    "paper": "Paper, 2–3B",
    "generated": "Generated pairs, SmolLM2 135M",
    "gemma": "Generated pairs, Gemma 3 270M",
    "real": "Real pairs, SmolLM2 135M",
}
"""Columns of `analysis.answers.build` and their headers in README."""
CAPTION = (
    "Each cell: both accuracies in percent where two methods are compared (base → method), the "
    "effect [95% interval] in percentage points unless another unit is named, and the verdict by "
    "the thresholds of conf/claims.yaml. Effects are rounded after subtraction. Distances and "
    "updates: 24 pairs per section. –: not run or not reported.\n\n"
    "- **Supported:** the effect passes its threshold. The first {primary} rows, the primary "
    "claims, need p < 0.05 after Holm's correction over those that their column can test. The "
    "other rows are secondary. No interval is corrected.\n"
    "- **Equivalent:** the 90% interval lies within our smallest effect of interest, which the "
    "cell names. The 95% interval may exclude zero.\n"
    "- **Refuted:** the upper end lies below the threshold. Of a gain, that is the paper's "
    "smallest: a smaller gain may exist.\n"
    "- **Inconclusive:** none of these, for example a negative effect where no threshold "
    "refutes.\n"
    "- **Not testable:** BT missed a gate. The average's gates are Reasoning and Chat Hard."
)
LONGEST = 9
"""Most rows that README's table may have."""
BEGIN, END = "<!-- answers, written by make readme -->", "<!-- end of answers -->"


def answers(root: Path, figure: Figure) -> str:
    """Return README's answers as Markdown: the table, and `figure` (`overview`) with its caption.

    Before the confirmatory results are there: one line that says so. Raises InputError for more
    than `LONGEST` rows.
    """
    if not (root / RESULTS / "manifest.json").is_file():
        return "The confirmatory results are being computed."
    table = build(root / "results")
    if len(table) > LONGEST:
        raise InputError(
            f"{len(table)} claims of conf/claims.yaml have a question, and README's table takes "
            f"{LONGEST}: remove the question from some"
        )
    rows = [[*COLUMNS.values()], ["---"] * len(COLUMNS), *table[[*COLUMNS]].to_numpy().tolist()]
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    caption = CAPTION.format(primary=int((table["kind"] == "primary").sum()))
    shown = [f"![{figure.get_suptitle()}]({FIGURE})", str(figure.get_label())]
    return "\n\n".join([*unfinished(root / "results"), lines, caption, *shown])


def unfinished(results: Path) -> list[str]:
    """Return a line for each column whose experiment lacks planned runs."""
    manifests = {column: results / name / "manifest.json" for column, name in FOLDERS.items()}
    early = {column: interim(read_json(p)) for column, p in manifests.items() if p.is_file()}
    return [f"{COLUMNS[column]}: {text}" for column, text in early.items() if text]


def overview(results: Path) -> Figure:
    """Return figure 12 of all existing folders of `analysis.answers.FOLDERS`, side by side.

    Raises InputError if existing data cannot be used.
    """
    folders = {column: results / name / "data" for column, name in FOLDERS.items()}
    found = {name: figure12.collect(data) for name, data in folders.items() if data.is_dir()}
    names = {tuple(frame[GROUP].iloc[0]): COLUMNS[name] for name, frame in found.items()}
    frame = pd.concat([*found.values()], ignore_index=True)
    return figure12.draw(frame, crossed=True, names=names)


def updated(text: str, content: str) -> str:
    """Return README's text with `content` between the lines `BEGIN` and `END`.

    Raises InputError unless each of the two occurs exactly once.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise InputError(f"README.md needs the lines {BEGIN} and {END}, once each")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{content}\n{END}{rest.split(END)[1]}"
