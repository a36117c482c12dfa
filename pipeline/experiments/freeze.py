"""The freeze of a confirmatory experiment: its rules may not change once test data are scored.

The freeze is a commit, named by `experiment.freeze`. What it fixes are the files of `FROZEN`:
claims and margins, the analysis, the list of runs and the data. Their wording may change: comments,
docstrings, texts with spaces and the words of a claim are not compared.
"""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path
from typing import Any, Final

import yaml
from omegaconf import DictConfig

from rm.errors import InputError
from rm.provenance import fingerprint_of

ROOT: Final = Path(__file__).resolve().parents[2]
EXPERIMENTS: Final = ("confirmatory", "replication")
METHODS: Final = ("bt", "normbt", "_normbt_weight", "normbt_cap", "category_weights")
FROZEN: Final = (
    "conf/claims.yaml",
    *(f"conf/{kind}/{name}.yaml" for kind in ("experiment", "matrix") for name in EXPERIMENTS),
    *("conf/data/generated_v2.yaml", *(f"conf/loss/{name}.yaml" for name in METHODS)),
    *("analysis/claims.py", "analysis/table1.py", "rm/objective/weights.py"),
    *(f"eval/{n}.py" for n in ("crossed", "strata", "verdicts", "protocol", "statistics")),
)
"""Files that claims, margins, analysis, runs and weights come from."""
WORDS: Final = {*("text", "where", "paper", "says", "question", "why", "test", "label", "freeze")}
"""Keys of YAML files that hold words for people, and the freeze itself."""


def check_freeze(cfg: DictConfig, root: Path = ROOT) -> dict[str, Any] | None:
    """Return what a manifest says about the freeze; None for an experiment without one.

    Keys: commit, files (path → fingerprint of its rules).

    Raises InputError if the freeze is not set yet, the commit is not in the repository's history,
    or the rules of a frozen file have changed.
    """
    experiment = cfg.get("experiment")
    if not experiment or "freeze" not in experiment:
        return None
    commit = experiment.freeze
    if commit is None:
        raise InputError(
            "experiment.freeze is not set: no test pair may be scored before the rules are frozen; "
            "give until=rates, or the commit that freezes them"
        )
    require_ancestor(commit, root)
    now = {path: rules(path, (root / path).read_text()) for path in FROZEN}
    changed = [path for path in FROZEN if now[path] != rules(path, at_commit(commit, path, root))]
    if changed:
        raise InputError(
            f"{', '.join(changed)}: its rules have changed since the freeze ({commit}): this is "
            "now another experiment; give it a name and an experiment file of its own"
        )
    return {"commit": str(commit), "files": now}


def require_ancestor(commit: str, root: Path = ROOT) -> None:
    """Raise InputError unless a commit is in the history of the commit that is checked out."""
    found = subprocess.run(
        ["git", "merge-base", "--is-ancestor", commit, "HEAD"],
        cwd=root, capture_output=True, text=True,
    )  # fmt: skip
    if found.returncode:
        raise InputError(
            f"experiment.freeze={commit} is not in this repository's history "
            f"({found.stderr.strip() or 'another branch'}): check out a commit after it, in a "
            "clone with its history (git fetch --unshallow)"
        )


def at_commit(commit: str, path: str, root: Path = ROOT) -> str:
    """Return a file's text at a commit. Raises InputError where git does not know it."""
    found = subprocess.run(
        ["git", "show", f"{commit}:{path}"], cwd=root, capture_output=True, text=True
    )
    if found.returncode:
        raise InputError(f"{path} at commit {commit} cannot be read: {found.stderr.strip()}")
    return found.stdout


def rules(path: str, text: str) -> str:
    """Return a fingerprint of what a file does: Python without texts, YAML without words."""
    if path.endswith(".py"):
        return fingerprint_of(ast.dump(_without_texts(ast.parse(text))))[:16]
    return fingerprint_of(_without_words(yaml.safe_load(text)))[:16]


def _without_texts(tree: ast.Module) -> ast.Module:
    """Drop docstrings, also those below constants, and blank every text that has a space."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [each for each in body if not _is_text(each)]  # type: ignore[attr-defined]
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            node.value = ""
    return tree


def _is_text(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _without_words(content: Any) -> Any:
    if isinstance(content, dict):
        return {k: _without_words(v) for k, v in content.items() if k not in WORDS}
    return [_without_words(each) for each in content] if isinstance(content, list) else content
