"""Words of a command line whose values are paths or names: taken exactly as typed.

Hydra's grammar gives brackets, commas, equals signs and letters of other alphabets a meaning or
refuses them, so that `data.train="pairs (1).jsonl"` would have to be quoted twice in a shell.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

LITERAL = (
    *("run_dir", "cache_dir", "runs_dir", "results_dir", "output", "archive", "folder"),
    *("checkpoint", "benchmark_data", "train", "validation", "path", "hub", "hostfile", "locks"),
    *("a", "b", "dir", "submitit_folder"),
)
"""Keys, by their last part, whose values are paths."""
SWEEP = ("-m", "--multirun")


def literal(words: Sequence[str]) -> list[str]:
    """Quote the paths that Hydra would refuse or misread.

    Kept as they are: null, lists, quoted values, interpolations (`${…}`) and, where the words ask
    for a sweep, the values that it goes through (of which each may be such a path).
    """
    sweep = any(word in SWEEP for word in words)
    return [_literal(word, sweep) for word in words]


def _literal(word: str, sweep: bool) -> str:
    key, equals, value = word.partition("=")
    last = re.split(r"[.@]", key.lstrip("+"))[-1]
    if not equals or last not in LITERAL or value[:1] in ("", "'", '"') or "${" in value:
        return word
    try:
        parsed = OverridesParser.create().parse_override(word)
    except HydraException:
        if sweep and "," in value:
            return f"{key}={','.join(_value(key, part) for part in value.split(','))}"
        return f"{key}={quoted(value)}"
    if parsed.is_sweep_override():
        return word if sweep else f"{key}={quoted(value)}"
    found = parsed.value()
    kept = found is None or isinstance(found, list | dict) or found == value
    return word if kept else f"{key}={quoted(value)}"


def _value(key: str, part: str) -> str:
    return _literal(f"{key}={part}", sweep=False).partition("=")[2]


def quoted(value: str) -> str:
    r"""Return a value in Hydra's quotes: a ' in it, and backslashes before one, are escaped.

    >>> quoted("a (1).jsonl"), quoted("it's")
    ("'a (1).jsonl'", "'it\\'s'")
    """
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
    return "'" + re.sub(r"(\\+)\Z", r"\1\1", escaped) + "'"
