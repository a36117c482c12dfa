"""Put the committed results into README.md between its markers: python -m scripts.readme."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

from analysis import claims
from analysis.report import BADGES, claim_row
from analysis.style import plural, plural_range
from rm.errors import InputError
from rm.files import atomic_write_text

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path("results/cpu")
FIGURES = {
    2: "Gradient norm and representation distance by category",
    12: "What every method adds to its base loss, by section, with 95 % intervals",
}


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
        (tables / "table1.md").read_text().strip(),
        *(f"![{text}]({RESULTS}/figures/figure{k}.png)" for k, text in FIGURES.items()),
        folded(
            "The differences of the second picture as a table",
            (tables / "table1_differences.md").read_text().strip(),
        ),
        verdicts(root / RESULTS / "data"),
    ]
    return "\n\n".join(parts)


def folded(head: str, body: str) -> str:
    """Return Markdown that shows `head` and unfolds `body` where it is asked to."""
    return f"<details><summary>{head}</summary>\n\n{body}\n\n</details>"


def verdicts(data: Path) -> str:
    """Count the claims (the paper's, our controls) by verdict; fold in those that were tested."""
    rows = [claim_row(judged) for judged in claims.judge_all(data, claims.read_claims())]
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


def main() -> None:
    """Rewrite README.md in place."""
    path = ROOT / "README.md"
    atomic_write_text(path, updated(path.read_text(), section(ROOT)))


if __name__ == "__main__":
    main()
