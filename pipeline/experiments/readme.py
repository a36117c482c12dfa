"""README's table of answers, from the committed results (make readme)."""

from __future__ import annotations

from pathlib import Path

from analysis.answers import build, interim
from rm.errors import InputError
from rm.files import read_json

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path("results/cpu")
FIGURE = RESULTS / "figures/figure12.png"
COLUMNS = {
    "question": "Question",
    "paper": "Paper, 2–3B",
    "generated": "Generated pairs, 135M",
    "gemma": "Gemma 3 270M",
    "real": "Real pairs",
}
"""Columns of `analysis.answers.build` and their headers in README."""
CAPTION = (
    "Each cell: both accuracies in percent where two methods are compared (base → method), the "
    "effect [95% interval], and the verdict by the margins of conf/claims.yaml: supported, "
    "refuted, equivalent, inconclusive or not testable. –: not run, or not reported."
)
LONGEST = 9
"""Most rows of the table: a page that answers, not a report."""
BEGIN, END = "<!-- answers, written by make readme -->", "<!-- end of answers -->"


def answers(root: Path) -> str:
    """Return README's answers as Markdown: the table and, where it is drawn, `FIGURE`.

    Before the confirmatory results are there: one line that says so. Raises InputError for more
    than `LONGEST` rows.
    """
    if not (root / RESULTS / "manifest.json").is_file():
        return "The confirmatory results are being computed."
    table = build(root / "results")
    if len(table) > LONGEST:
        raise InputError(
            f"{len(table)} claims of conf/claims.yaml have a question, README's table takes "
            f"{LONGEST}: leave it out of some"
        )
    rows = [[*COLUMNS.values()], ["---"] * len(COLUMNS), *table[[*COLUMNS]].to_numpy().tolist()]
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    figure = [f"![Effects by method and section]({FIGURE})"] if (root / FIGURE).is_file() else []
    early = interim(read_json(root / RESULTS / "manifest.json"))
    return "\n\n".join([*filter(None, [early]), lines, CAPTION, *figure])


def updated(text: str, content: str) -> str:
    """Return README's text with `content` between the lines `BEGIN` and `END`.

    Raises InputError unless each of the two stands there once.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise InputError(f"README.md needs the lines {BEGIN} and {END}, once each")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{content}\n{END}{rest.split(END)[1]}"
