"""Tables in and out: read a tidy file, write one table as CSV, Markdown and LaTeX (booktabs).

The CSV holds every number; Markdown and LaTeX show an estimate with its interval in one cell,
"67.3 [64.1, 70.2]", and one over seeds alone behind it, "(65.0, 69.6)".
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import pandas as pd

from analysis.style import method_label
from eval.protocol import check_finite
from eval.spreadsheet import csv_text, read_csv
from eval.tables import markdown_text, plain_text
from rm.errors import InputError, visible
from rm.files import atomic_write_text

Taken = TypeVar("Taken")

GROUP: Final = ["backbone", "data", "benchmark"]
TEXTS: Final = ["prompt", "chosen", "rejected"]
"""Columns of pairs.parquet that hold texts."""
SCORES: Final = [
    *("method", *GROUP, "seed", "pair_id", "subset", "section"),
    *("reward_chosen", "reward_rejected"),
]
LOW: Final = "_low"
HIGH: Final = "_high"
SEED: Final = "_seed"
"""Ending of an estimate's second interval, over seeds alone: `x_seed_low`, `x_seed_high`."""
P: Final = "_p"
"""Ending of an estimate's p-value of 0."""
HOLM: Final = "_holm"
"""Ending of the same after Holm's adjustment for the rows of the column."""
MARK: Final = "†"
"""What marks an estimate whose adjusted p-value is below 0.05."""
LABELS: Final = {"method": method_label, "minus": method_label}
"""Columns whose words readers see by other names, and how each is made."""
HEADERS: Final = {"chat_hard": "Chat Hard"}
LATEX: Final = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "−": r"$-$",
    "→": r"$\to$",
    "≥": r"$\ge$",
    "≤": r"$\le$",
    "·": r"$\cdot$",
    MARK: r"\dag{}",
}


class AbsentError(InputError):
    """What is asked for was not run: nothing is wrong with the data that are there."""


def within(folder: Path, error: AbsentError) -> str:
    """Return why something is absent, with paths relative to `folder`, since pages are copied."""
    return str(error).replace(f"{folder}/", "")


def read_tidy(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Return the rows of a .csv or .parquet file that has at least `columns`.

    Raises AbsentError: the file is missing or has no rows; InputError: it is unreadable or lacks a
    column.
    """
    if not path.is_file():
        raise AbsentError(f"{path} is missing: run the evaluation that writes it (make reproduce)")
    try:
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else read_csv(path)
    except Exception as error:  # pandas and pyarrow raise a dozen kinds
        raise InputError(f"{path} cannot be read as a table: {error}") from error
    return require(frame, columns, str(path))


def read_scores(path: Path, keys: Sequence[str] = (), needed: Sequence[str] = ()) -> pd.DataFrame:
    """Return the scores in `path`, one row per run and pair, with `correct` and `cluster` added.

    `correct` is True where the chosen response scores strictly higher: a tie is a loss. `cluster`
    names what is resampled together (the problem behind several pairs); a pair that stands alone is
    its own cluster. `keys`: columns that tell runs apart besides method, data and seed.
    `needed`: columns that must be there beside `SCORES`.

    Raises InputError: the file is missing, empty, lacks a column, repeats a pair within a run or
    holds a reward that is no finite number.
    """
    every = [*keys, "method", *GROUP, "seed", "pair_id"]
    scores = one_row_each(read_tidy(path, [*keys, *SCORES, *needed]), every, str(path))
    check_finite(scores, ("reward_chosen", "reward_rejected"), "pair_id")
    alone = "pair:" + scores["pair_id"].astype(str)
    named = scores["cluster"].fillna("").astype(str) if "cluster" in scores else None
    cluster = alone if named is None else ("cluster:" + named).where(named != "", alone)
    correct = scores["reward_chosen"] > scores["reward_rejected"]
    return scores.assign(correct=correct, cluster=cluster)


def from_manifest(results: Path, take: Callable[[dict[str, Any]], Taken]) -> Taken:
    """Return what `take` makes of `results`/manifest.json.

    Raises InputError: the file is missing or unreadable, or lacks what `take` looks up.
    """
    path = results / "manifest.json"
    if not path.is_file():
        raise InputError(f"{path} is missing: make the results first (make reproduce)")
    try:
        return take(json.loads(path.read_text()))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a manifest of the pipeline ({error!r}): write it again"
        ) from error


def of_method(frame: pd.DataFrame, method: str, path: Path) -> pd.DataFrame:
    """Return one method's rows of `frame`, read from `path`.

    Raises AbsentError: there are none.
    """
    rows = frame[frame["method"] == method]
    if rows.empty:
        raise AbsentError(f"{path} has no rows of method {method}: evaluate it first")
    return rows


def with_texts(frame: pd.DataFrame, data: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Return `frame` with `columns` of `data`/pairs.parquet beside each pair_id.

    Raises AbsentError: the texts were left out; InputError: the file is unusable or lacks a pair.
    """
    path, wanted = data / "pairs.parquet", ["pair_id", *columns]
    texts = read_tidy(path, ["pair_id"])
    if not set(TEXTS) & set(texts) and set(TEXTS) & set(columns):
        raise AbsentError("the texts of the pairs were left out (texts=false)")
    texts = require(texts, wanted, str(path))[wanted]
    missing = set(frame["pair_id"]) - set(texts["pair_id"])
    if missing:
        raise InputError(
            f"{path} has no texts for {len(missing)} of the pairs, first {min(missing)}: write "
            "the folder again (make reproduce)"
        )
    return frame.merge(texts, on="pair_id")


def require(frame: pd.DataFrame, columns: Sequence[str], name: str) -> pd.DataFrame:
    """Return `frame` if it has rows and all `columns`.

    Raises AbsentError: it has no rows; InputError: a column is absent, which the message names.
    """
    absent = [column for column in columns if column not in frame.columns]
    if absent:
        raise InputError(f"{name} lacks the columns {', '.join(absent)}: write it again")
    if frame.empty:
        raise AbsentError(f"{name} has no rows: nothing to show")
    return frame


def one_row_each(frame: pd.DataFrame, keys: Sequence[str], name: str) -> pd.DataFrame:
    """Return `frame` if no two rows share `keys`.

    Raises InputError: two do (a run evaluated twice would count twice).
    """
    twice = frame.duplicated(list(keys))
    if twice.any():
        example = ", ".join(str(value) for value in frame.loc[twice, list(keys)].iloc[0])
        raise InputError(f"{name}: more than one row for {', '.join(keys)} = {example}")
    return frame


def write_table(
    frame: pd.DataFrame,
    stem: Path,
    caption: str,
    note: str = "",
    headers: Mapping[str, str] | None = None,
    labels: Mapping[str, Callable[[str], str]] | None = None,
    digits: int = 1,
) -> tuple[Path, Path, Path]:
    """Write `stem`.csv, `stem`.md and `stem`.tex atomically and return their paths.

    `caption` says what the numbers are (unit, interval); `note` names the profile's model and data.
    In Markdown and LaTeX only: `headers` renames columns, `labels` and `LABELS` rewrite a column's
    words and `digits` rounds.
    """
    rewritten = {name: way for name, way in {**LABELS, **(labels or {})}.items() if name in frame}
    words = {name: frame[name].map(rewrite) for name, rewrite in rewritten.items()}
    shown = display(frame.assign(**words), digits).rename(
        columns=lambda name: header(name, headers)
    )
    texts = {
        "csv": csv_text(frame, float_format="%.4f"),
        "md": markdown(shown, caption, note),
        "tex": latex(shown, caption, note, label=stem.name),
    }
    paths = tuple(stem.with_name(f"{stem.name}.{kind}") for kind in texts)
    for path, text in zip(paths, texts.values(), strict=True):
        atomic_write_text(path, text)
    return paths[0], paths[1], paths[2]


def display(frame: pd.DataFrame, digits: int = 1) -> pd.DataFrame:
    """Return the frame as text, every `x` with its intervals folded into one column `x`.

    `x_p` and `x_holm` are left out; an estimate whose `x_holm` is below 0.05 is marked.
    """
    names = [str(name) for name in frame.columns]
    ends = (LOW, HIGH, SEED + LOW, SEED + HIGH, P, HOLM)
    bounds = {name + end for name in names for end in ends if is_estimate(frame, name)}
    shown = {}
    for name in names:
        if name in bounds:
            continue
        cells = [cell(value, digits) for value in frame[name]]
        for of, brackets in ((name, "[]"), (name + SEED, "()")):
            if is_estimate(frame, of):
                sides = zip(cells, frame[of + LOW], frame[of + HIGH], strict=True)
                cells = [with_interval(*side, digits, brackets) for side in sides]
        if name + HOLM in frame:
            marks = [MARK if p < 0.05 else "" for p in frame[name + HOLM]]
            cells = [f"{c} {mark}".strip() for c, mark in zip(cells, marks, strict=True)]
        shown[name] = cells
    return pd.DataFrame(shown, dtype=object)


def is_estimate(frame: pd.DataFrame, name: str) -> bool:
    """Return whether a column comes with both ends of an interval."""
    return name + LOW in frame.columns and name + HIGH in frame.columns


def with_interval(text: str, low: float, high: float, digits: int, brackets: str = "[]") -> str:
    """Return "67.3 [64.1, 70.2]", or the bare text where an end or the estimate is unknown."""
    if not text or pd.isna(low) or pd.isna(high):
        return text
    ends = f"{cell(float(low), digits)}, {cell(float(high), digits)}"
    return f"{text} {brackets[0]}{ends}{brackets[1]}"


def cell(value: Any, digits: int) -> str:
    """Return one value as text: floats rounded, whole numbers and words as they are, unknown ""."""
    if value is None or (not isinstance(value, str) and pd.isna(value)):
        return ""
    if isinstance(value, float):
        return decimals(value, digits)
    return str(value)


def decimals(value: float, digits: int) -> str:
    """Return a number with `digits` decimals; rounding error does not change the text."""
    rounded = f"{round(value, 9):.{digits}f}"
    return rounded.removeprefix("-") if float(rounded) == 0 else rounded.replace("-", "−")


def header(name: str, headers: Mapping[str, str] | None) -> str:
    """Return a column's printed name: given, known, or its own with spaces and a capital."""
    known = {**HEADERS, **(headers or {})}
    return known.get(name, name.replace("_", " ").capitalize())


def markdown(shown: pd.DataFrame, caption: str, note: str) -> str:
    """Return a Markdown table of text cells under its caption and over its note."""
    rows = [list(shown.columns), ["---"] * shown.shape[1], *shown.values.tolist()]
    lines = ["| " + " | ".join(map(markdown_text, row)) + " |" for row in rows]
    parts = [caption, "\n".join(lines), f"*{markdown_text(note)}*" if note else ""]
    return "\n\n".join(part for part in parts if part) + "\n"


def read_markdown(text: str) -> tuple[str, pd.DataFrame]:
    """Return the caption and the text cells of what `markdown` made: its inverse, but the note."""
    lines = text.split("\n")
    rows = [
        [plain_text(cell) for cell in line[2:-2].split(" | ")]
        for line in lines
        if line.startswith("| ")
    ]
    return lines[0], pd.DataFrame(rows[2:], columns=rows[0], dtype=object)


def latex(shown: pd.DataFrame, caption: str, note: str, label: str) -> str:
    r"""Return a LaTeX table (`\usepackage{booktabs}`) of text cells with caption and label."""
    rows = [[escape(text) for text in row] for row in shown.values.tolist()]
    names = [escape(str(name)) for name in shown.columns]
    words = " ".join(escape(text) for text in (caption, note) if text)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{words}}}",
        rf"\label{{tab:{label}}}",
        rf"\begin{{tabular}}{{{'l' * len(names)}}}",
        r"\toprule",
        " & ".join(names) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    r"""Return `text` with LaTeX's special characters and our typographic ones made safe.

    Also a `[` or `*` at the start, which `\\\\` of the row before would take as its own, and line
    breaks and other control characters, which are spelt.
    """
    safe = "".join(LATEX.get(character, character) for character in visible(text))
    return f"{{}}{safe}" if safe.startswith(("[", "*")) else safe
