"""Put the committed results into README.md and results/CLAIMS.md: python -m scripts.readme."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from analysis import claims
from analysis.claims import Judged
from analysis.report import BADGES, claim_row
from analysis.style import METHODS, method_label, plural, plural_range
from eval.tables import markdown_text
from rm.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path("results/cpu")
PAGE = Path("results/CLAIMS.md")
FOLDERS = (
    *("cpu", "cpu_gold", "cpu_rates", "cpu_rivals", "cpu_sgd", "cpu_gemma"),
    *("real/unified_feedback", "real/skywork"),
)
"""The folders of results/ whose claims are judged."""
FIGURES = {
    2: "Gradient norm and representation distance by category",
    12: "What every method adds to its base loss, by section, with 95 % intervals",
}
SAID = re.compile(r"<!-- (\S+) (\S+): ([a-z ]+) -->.*?<!-- / -->", re.DOTALL)
"""A number in a sentence: results folder, claim and the verdict that the sentence gives it."""


@cache
def judged(folder: Path) -> Mapping[str, Judged]:
    """Return all claims judged on a results folder, by their ids."""
    found = claims.judge_all(folder / "data", claims.read_claims())
    return {str(one.claim["id"]): one for one in found}


def section(root: Path) -> str:
    """Return the README's results: tables and figures of the cpu profile, from its files."""
    tables = root / RESULTS / "tables"
    if not (tables / "table1.md").is_file():
        raise InputError(f"no {RESULTS}/tables/table1.md: run `make reproduce` first")
    manifest = json.loads((root / RESULTS / "manifest.json").read_text())
    seconds = sum(run["seconds"] for run in manifest["runs"])
    threads = [run["environment"]["threads"] for run in manifest["runs"]]
    parts = [
        f"From `{RESULTS}` ({manifest['label']}); the {len(manifest['runs'])} training runs took "
        f"{seconds / 60:.0f} minutes in all, {plural_range(threads, 'thread')} each.",
        of_variants((tables / "table1.md").read_text().strip()),
        *(f"![{text}]({RESULTS}/figures/figure{k}.png)" for k, text in FIGURES.items()),
        folded("Table 1 with the controls", (tables / "table1.md").read_text().strip()),
        folded(
            "The differences of the second picture as a table",
            (tables / "table1_differences.md").read_text().strip(),
        ),
        verdicts(root / RESULTS),
    ]
    return "\n\n".join(parts)


def of_variants(table: str) -> str:
    """Return table 1 as Markdown without its rows of controls and rivals."""
    kept = {"Method", "---", *map(method_label, METHODS)}
    lines = table.split("\n")
    return "\n".join(x for x in lines if not x.startswith("| ") or x.split(" | ")[0][2:] in kept)


def folded(head: str, body: str) -> str:
    """Return Markdown that shows `head` and unfolds `body` where it is asked to."""
    return f"<details><summary>{head}</summary>\n\n{body}\n\n</details>"


def verdicts(folder: Path) -> str:
    """Count the claims (the paper's, our controls) by verdict; fold in those that were tested."""
    rows = [claim_row(one) for one in judged(folder).values()]
    tested = [row for row in rows if row["verdict"] != claims.NOT_RUN]
    counts = Counter(row["verdict"] for row in tested)
    lines = [
        f"- **{row['verdict']}**: {row['text']} "
        f"{' '.join(filter(None, (row['number'], row['interval'])))} "
        f"({row['says']}; {row['basis']})"
        for row in tested
    ]
    missing = len(rows) - len(tested)
    more = f"; {plural(missing, 'further claim')} not run" if missing else ""
    head = (
        f"The paper's claims and our controls at this scale, {len(tested)} in all: "
        f"{', '.join(f'{verdict} {counts[verdict]}' for verdict in BADGES if counts[verdict])}"
    )
    rule = (
        "By the rules of `conf/claims.yaml` (95 % intervals, not adjusted for their number; with "
        f"few seeds they understate the seeds' share{more}):"
    )
    return folded(head, "\n".join([rule, "", *lines]))


def updated(text: str, content: str) -> str:
    """Return README text with `content` between the markers `<!-- results -->`."""
    pattern = re.compile(r"(<!-- results -->\n).*?(<!-- /results -->)", re.DOTALL)
    return pattern.sub(lambda found: f"{found[1]}{content}\n{found[2]}", text)


def with_numbers(text: str, root: Path) -> str:
    """Return README text with every number of a claim in it (`SAID`) as it is now.

    Raises InputError: a claim's verdict is not the one that its sentence gives it.
    """

    def number(found: re.Match[str]) -> str:
        folder, name, said = found.groups()
        one = judged(root / "results" / folder)[name]
        if one.verdict != said:
            raise InputError(
                f"README.md says of {name} in results/{folder}: {said}; it is {one.verdict} "
                f"({one.reason}): rewrite the sentence"
            )
        return f"<!-- {folder} {name}: {said} -->{in_words(one)}<!-- / -->"

    return SAID.sub(number, text)


def in_words(one: Judged) -> str:
    """Return a claim's number and interval: "8.83 [1.67, 16.3]"; "" where it was not run."""
    row = claim_row(one)
    return " ".join(filter(None, (row["number"], row["interval"])))


def page(root: Path) -> str:
    """Return results/CLAIMS.md: one row per claim, one column per results folder."""
    columns = {name: judged(root / "results" / name) for name in FOLDERS}
    lines = [["Claim", *(f"`{name}`" for name in FOLDERS)], ["---"] * (1 + len(FOLDERS))]
    for name in columns[FOLDERS[0]]:
        ours = [found[name] for found in columns.values()]
        cells = [
            "–" if one.verdict == claims.NOT_RUN else f"**{one.verdict}** {in_words(one)}"
            for one in ours
        ]
        lines.append([markdown_text(str(ours[0].claim["text"])), *cells])
    head = (
        "# The claims in every results folder\n\n"
        "Written by `python -m scripts.readme` from the folders' `data/` by the rules of "
        "`conf/claims.yaml`, which says what each number is. Brackets: 95 % intervals, not "
        "adjusted for their number; those of a mean weight are its smallest and largest seed. "
        "–: not run there. Small models, and generated pairs but in `real/`: README.md says what "
        "each folder holds. The folders are not independent evidence: `cpu`, `cpu_rates` and "
        "`cpu_rivals` share runs (BT and NormBT with one seed and rate), and `cpu_sgd` the "
        "untrained backbone; `cpu_gold` has Best-of-N's responses of `cpu`; those of `real/` share "
        "the untrained backbone, the test rows and most pairs.\n\n"
    )
    return head + "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"
