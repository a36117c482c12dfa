"""No tracked text has a phrase that readers stumbled over; beside each stands what to write."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PHRASES = {
    r"\b(row|value|line|pass|point|vector) an? (pair|check|run|host|step|token)\b": (
        "one row per pair"
    ),
    r"\btold (apart )?from (zero|0|chance)\b": "the interval includes zero; … excludes zero",
    r"\brates by validation\b": "learning rates chosen on validation pairs",
    r"\bhangs on\b": "depends on",
    r"\bturns \S+ ?% of the labels\b": "flips 40% of the labels",
    r"\bdealt (to|over|within|out|among)\b": "shuffled among pairs",
    r"\bgains? stands?\b": "remain significant after Holm's correction",
    r"\bunderstates? the seeds\b": "underestimate seed-to-seed variation",
    r"\bwhy it does is open\b": "we do not know why",
    r"\bholds? (0|zero)\b": "the interval includes zero",
    r"\bmade anew\b": "again; is retrained, is rebuilt",
    r"\brepeats nothing\b": "skips finished runs",
    r"\brefused of\b": "untrusted files that are rejected",
    r"\b(files|texts|words|models|input) of others\b": "untrusted files",
    r"\bthose whose whole\b": "95% intervals that exclude zero",
    r"\bnot distinguishably\b": "the difference is inconclusive",
    r"\bis named twice\b": "contains duplicates",
    r"\bno valid (UTF-8|JSON)\b": "invalid UTF-8",
    r"\bof no run\b": "contains X but no config.yaml",
    r"\bturned? round\b": "reversed",
    r"\bgo(es)? on (from|under|with|training)\b": "resumes; continues",
}
"""What readers had to read twice, as a pattern → what to write in its place."""
READ = ("*.py", "*.md", "*.yaml", "*.j2", "*.ipynb", "*.toml", "Makefile", "Dockerfile", ".ci/run")
ARCHIVES = ("results/", "tests/test_language.py")
"""Left out: this list, and results as they were written; README.md and LOG.md there are read."""


def tracked() -> list[Path]:
    """The files that a reader meets."""
    made = subprocess.run(["git", "ls-files", *READ], cwd=ROOT, capture_output=True, text=True)
    return [
        ROOT / name
        for name in made.stdout.splitlines()
        if not name.startswith(ARCHIVES) or name.endswith(("README.md", "LOG.md"))
    ]


def found(text: str) -> list[str]:
    """The phrases in a text, however its lines are broken."""
    flat = re.sub(r"\s+(# )?", " ", text)
    return [
        f"{hit[0]!r}: write {better!r}"
        for pattern, better in PHRASES.items()
        for hit in re.finditer(pattern, flat, re.IGNORECASE)
    ]


def test_no_text_has_a_phrase_to_stumble_over() -> None:
    paths = tracked()
    if not paths:
        pytest.skip("not a git checkout")
    assert [(path.name, one) for path in paths for one in found(path.read_text())] == []


def test_phrases_are_found_across_lines() -> None:
    assert found("The difference is told\n    # from zero.") == [
        "'told from zero': write 'the interval includes zero; … excludes zero'"
    ]
    assert found("One row per pair.") == []
