"""Table 1: accuracy by section, methods × backbones × training data, with intervals.

Three tables: the methods; the paired differences of each method and its base loss (same seeds, same
pairs); and the paper's numbers beside ours, which stand on another scale (2B and 3B backbones,
human data).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pandas as pd

from analysis.style import METHODS, SECTIONS
from analysis.tables import (
    GROUP,
    HIGH,
    HOLM,
    LOW,
    MARK,
    SEED,
    AbsentError,
    P,
    read_scores,
    require,
    write_table,
)
from eval import rewardbench, strata
from eval.crossed import intervals
from eval.methods import base_of
from eval.protocol import Protocol, partial
from eval.spreadsheet import read_csv
from eval.statistics import difference_intervals, holm, section_intervals
from rm.data.preferences import section_key

BASELINES_FILE: Final = "baselines.csv"
PAPER: Final = Path(__file__).with_name("paper_numbers.csv")
LISTED: Final = 4
"""Partial subsets of a section that a caption names; of more, the rest is counted."""
CELLS: Final = [*(section_key(section) for section in SECTIONS), "average"]
COLUMNS: Final = [
    *("method", *GROUP, "seed", "pair_id", "subset", "section", "cluster", "correct"),
]
HERE: Final = "this repository"
BOOTSTRAP: Final = (
    "95% bootstrap over training seeds and then test pairs. A tie counts as a loss; the average is "
    "the mean of the sections. With few seeds the intervals underestimate seed-to-seed variation."
)
INTERVAL: Final = f"Brackets: {BOOTSTRAP}"
CROSSED: Final = (
    "Brackets: 95% interval for new training seeds and new test pairs (crossed random effects, "
    "Satterthwaite's degrees of freedom). Parentheses: 95% interval for new seeds on these pairs "
    "(Student's t over seeds). With three seeds read the wider one: the degrees of freedom of the "
    "first are estimated. A tie counts as a loss; the average is the mean of the sections."
)
ADJUSTED: Final = (
    f"{MARK}: also p < 0.05 by the same bootstrap after Holm's adjustment for the rows of a column."
)
CROSSED_ADJUSTED: Final = (
    f"{MARK}: p < 0.05 for new seeds and pairs after Holm's correction over the rows of a column, "
    "if there are several. The primary claims are corrected over one another instead: a † is no "
    "verdict on a claim."
)
READS_NO_PROMPT: Final = (
    "Last rows: logistic regressions on n-grams and on the length of the answers, fitted to the "
    "training pairs of seed 0, which read no prompt; a tie counts half and brackets are over pairs."
)
ROWS: Final = "Each method minus its base loss (a rival or control: minus BT)"
"""What a row of `differences` is."""
PAPER_SCALE: Final = (
    "The paper's numbers (arXiv 2512.06343) are on another scale wherever backbone, data or "
    "benchmark differ from ours: 2B and 3B backbones, trained on 80K pairs of human preference "
    "data sets, scored on RewardBench, without intervals. Cells that we do not know are empty."
)


def collect(data: Path) -> pd.DataFrame:
    """Return one row per run and pair of the trained methods, from `data`/scores.parquet.

    Columns: method, backbone, data, benchmark, seed, pair_id, subset, section, cluster, correct
    (0.0 or 1.0), truncated (False where the file does not say). The untrained backbone is left out:
    its rewards come from a random head. Benchmarks with sections other than the paper's four are
    left out too.

    Raises InputError: the file is unusable, or nothing of a trained method is in it.
    """
    path = data / "scores.parquet"
    return of_trained(read_scores(path), path)[[*COLUMNS, "truncated"]]


def of_trained(scores: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Return the rows of `scores`, read from `path`, that table 1 is about, `correct` as a number.

    `truncated` (bool) is there too, False where the file does not say.

    Raises InputError: there is none.
    """
    trained = scores[scores["method"] != "untrained"]
    known = trained["section"].map(section_key).isin(CELLS)
    foreign = set(trained.loc[~known, "benchmark"])
    kept = trained[~trained["benchmark"].isin(foreign)]
    if kept.empty:
        raise AbsentError(
            f"{path} has no trained method on a benchmark with the sections "
            f"{', '.join(SECTIONS)}: evaluate one first"
        )
    cut = kept["truncated"].astype(bool) if "truncated" in kept else False
    return kept.assign(correct=kept["correct"].astype(float), truncated=cut).reset_index(drop=True)


def build(frame: pd.DataFrame, resamples: int = 2000, crossed: bool = False) -> pd.DataFrame:
    """Return table 1: one row per method, backbone, data set and benchmark.

    Columns: method, backbone, data, benchmark, seeds, then chat, chat_hard, safety, reasoning,
    average in percent, each followed by its `_low` and `_high`, and pairs. A section that a
    benchmark lacks is NaN. With `crossed`: intervals of `eval.crossed`, and `_seed_low` and
    `_seed_high` over seeds alone.

    Raises InputError: `frame` (of `collect`) is empty, the seeds of a run saw different pairs, or,
    with `crossed`, a method has one seed only.
    """
    require(frame, COLUMNS, "table 1's data")
    rows = [
        {"method": method, **place, **accuracies(part, protocol, resamples, crossed)}
        for place, group, protocol in groups(frame)
        for method, part in by_method(group)
    ]
    return pd.DataFrame(rows)


def differences(frame: pd.DataFrame, resamples: int = 2000, crossed: bool = False) -> pd.DataFrame:
    """Return the paired differences method − its base loss, one row per method with a base.

    The base: `eval.methods.base_of`. Columns and errors: as `paired`; `adjusted` adds Holm's.
    """
    require(frame, COLUMNS, "table 1's data")
    parts = []
    for _, group, _ in groups(frame):
        methods = [method for method, _ in by_method(group)]
        bases = [(method, base_of(method, methods)) for method in methods]
        parts.append(paired(group, [(m, base) for m, base in bases if base], resamples, crossed))
    return pd.concat(parts, ignore_index=True)


def paired(
    frame: pd.DataFrame,
    sides: Sequence[tuple[str, str]],
    resamples: int = 2000,
    crossed: bool = False,
) -> pd.DataFrame:
    """Return the paired differences of `sides`, (method, minus), one row each that was run.

    Columns: method, minus, backbone, data, benchmark, seeds, then the sections and the average in
    percentage points with `_low`, `_high` and `_p` (of no difference), and pairs. The same
    intervals as table 1's, on the difference of the two methods' `correct` of one seed and pair.

    Raises InputError: within a seed the two methods were evaluated on different pairs, or as
    `build`.
    """
    rows = []
    for place, group, protocol in groups(frame):
        runs = dict(by_method(group))
        for method, base in sides:
            if method in runs and base in runs:
                both = strata.paired(runs[method], runs[base])
                if len(both):
                    found = (
                        intervals(both, protocol)
                        if crossed
                        else difference_intervals(both, protocol, resamples=resamples)
                    )
                    rows.append({"method": method, "minus": base, **place, **cells_of(found)})
    return pd.DataFrame(rows, columns=None if rows else ["method", "minus", *GROUP, "seeds"])


def adjusted(table: pd.DataFrame) -> pd.DataFrame:
    """Return `differences` with each cell's p-value after Holm's adjustment, as `_holm` beside it.

    Adjusted for the rows of one backbone, data set and benchmark that have the cell.
    """
    made = table.copy()
    for cell in CELLS if len(table) else ():
        made[cell + HOLM] = float("nan")
        for _, rows in table[table[cell + P].notna()].groupby(GROUP):
            made.loc[rows.index, cell + HOLM] = holm(rows[cell + P].to_numpy())
    return made


def groups(frame: pd.DataFrame) -> Iterator[tuple[dict[str, str], pd.DataFrame, Protocol]]:
    """Yield backbone, data and benchmark with their rows and the benchmark's protocol."""
    for key, part in frame.groupby(GROUP, sort=True):
        place = {name: str(value) for name, value in zip(GROUP, key, strict=True)}
        yield place, part, protocol_of(place["benchmark"], part)


def protocol_of(benchmark: str, rows: pd.DataFrame) -> Protocol:
    """Return RewardBench's official weights, or those that the row counts of another set give."""
    if benchmark == rewardbench.PROTOCOL.name:
        return rewardbench.PROTOCOL
    return Protocol.from_counts(benchmark, rows.drop_duplicates("pair_id"))


def rows_note(frame: pd.DataFrame, keys: Sequence[str] = ()) -> str:
    """Return what a caption says of test rows that are absent or cut; "" if none is.

    `frame`: of a table's `collect`; `keys`: columns that tell runs apart besides table 1's.
    """
    return partial_note(frame, keys) + truncated_note(frame)


def partial_note(frame: pd.DataFrame, keys: Sequence[str] = ()) -> str:
    """Return how the RewardBench rows of `frame` differ from the official set; "" if in nothing.

    The rows are counted run by run, and what any run lacks is said. `keys`: columns that tell runs
    apart besides method, seed, backbone and data. No other benchmark that table 1 shows has
    official counts.
    """
    rows = frame[frame["benchmark"] == rewardbench.PROTOCOL.name]
    notes: dict[str, dict[str, None]] = {}  # section -> its notes, an ordered set
    for _, run in rows.groupby([*keys, *GROUP, "method", "seed"]):
        counts = {str(name): {"pairs": n} for name, n in run["subset"].value_counts().items()}
        for section, found in partial(counts, rewardbench.PROTOCOL).items():
            notes.setdefault(section, {}).update(dict.fromkeys(found))
    words = [f"{section}: {listed(list(found))}" for section, found in notes.items()]
    return f" RewardBench is partial here ({'; '.join(words)})." if words else ""


def truncated_note(frame: pd.DataFrame) -> str:
    """Return how many test pairs were cut to the runs' max_length in any run, section by section.

    "" where none was. `frame`: of `collect`.
    """
    pairs = frame.groupby(["benchmark", "section", "pair_id"], sort=False)["truncated"].any()
    if not pairs.any():
        return ""
    shares = pairs.groupby("section", sort=False).mean()
    words = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share)
    return f" {pairs.sum():,} of {len(pairs):,} test pairs are truncated ({words})."


def listed(notes: Sequence[str]) -> str:
    """Return the notes with commas between them, those after the first `LISTED` as a number."""
    more = [f"{len(notes) - LISTED} more"] if len(notes) > LISTED else []
    return ", ".join([*notes[:LISTED], *more])


def by_method(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield each method's rows, the losses in the paper's order and each before its NormBT."""
    present = set(rows["method"])
    for method in [*METHODS, *sorted(present - set(METHODS))]:
        if method in present:
            yield method, rows[rows["method"] == method]


def accuracies(
    outcomes: pd.DataFrame, protocol: Protocol, resamples: int, crossed: bool
) -> dict[str, float]:
    """Return one row's cells: seeds, every section and the average in percent, pairs."""
    if crossed:
        return cells_of(intervals(outcomes, protocol).drop(columns="p"))
    return cells_of(section_intervals(outcomes, protocol, resamples=resamples, seed=0))


def cells_of(found: pd.DataFrame) -> dict[str, float]:
    """Return the cells of one row from its intervals: fractions become percent, p-values stay."""
    found = found[found["level"] != "subset"]
    cells = {section_key(row["name"]): row for _, row in found.iterrows()}
    values: dict[str, float] = {"seeds": int(cells["average"]["seeds"])}
    columns = {"": "mean", LOW: "low", HIGH: "high"}
    columns |= {SEED + LOW: "seed_low", SEED + HIGH: "seed_high"} if "seed_low" in found else {}
    for name in CELLS:
        for ending, column in columns.items():
            values[name + ending] = 100 * cells[name][column] if name in cells else float("nan")
        if "p" in found:
            values[name + P] = cells[name]["p"] if name in cells else float("nan")
    return {**values, "pairs": int(cells["average"]["pairs"])}


def baseline_rows(data: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Return the baselines that read no prompt as rows of table 1, from `data`/baselines.csv.

    Without that file no rows. They stand at the place of the `table`'s first row; their intervals
    are over pairs alone, as they have no training seeds.
    """
    path = data / BASELINES_FILE
    if not path.is_file():
        return table[:0]
    found = read_csv(path)
    rows = []
    for name, part in found[found["level"] != "subset"].groupby("baseline", sort=False):
        cells = {section_key(row["name"]): row for _, row in part.iterrows()}
        numbers = {
            cell + end: cells[cell][column]
            for cell in CELLS
            if cell in cells
            for end, column in (("", "accuracy"), (LOW, "low"), (HIGH, "high"))
        }
        place = {key: table[key].iloc[0] for key in (*GROUP, "pairs")}
        rows.append({**place, "backbone": "none", "method": f"{name} (baseline)", **numbers})
    return pd.DataFrame(rows, columns=table.columns)


def with_rows(table: pd.DataFrame, baselines: pd.DataFrame) -> pd.DataFrame:
    """Return `table` with `baselines` below it; they have no seeds."""
    if baselines.empty:
        return table
    below = baselines.astype({"seeds": "Int64"})
    return pd.concat([table.astype({"seeds": "Int64"}), below], ignore_index=True)


def beside_paper(table: pd.DataFrame) -> pd.DataFrame:
    """Return the paper's reported rows followed by ours of the methods that it reports.

    Columns: source ("paper" or "this repository"), backbone, data, benchmark, method, then the
    sections and the average in percent; intervals are ours only, unknown cells are NaN.
    """
    theirs = pd.read_csv(PAPER).assign(source="paper", benchmark="rewardbench")
    ours = table[table["method"].isin(set(theirs["method"]))].assign(source=HERE)
    bounds = [cell + end for cell in CELLS for end in ("", LOW, HIGH)]
    columns = ["source", *GROUP, "method", *bounds]
    return pd.concat([theirs, ours], ignore_index=True).reindex(columns=columns)


def write(data: Path, folder: Path, note: str = "", crossed: bool = False) -> list[Path]:
    """Write table1, table1_differences and table1_paper into `folder` and return their paths.

    `note` names the profile's model and data and goes under every table; `crossed`: as `build`.

    Raises InputError: as `collect`, `build` and `differences`.
    """
    frame = collect(data)
    table, short = build(frame, crossed=crossed), rows_note(frame)
    baselines = baseline_rows(data, table)
    read_none = f" {READS_NO_PROMPT}" if len(baselines) else ""
    interval, adjustment = (CROSSED, CROSSED_ADJUSTED) if crossed else (INTERVAL, ADJUSTED)
    return [
        *write_table(
            with_rows(table, baselines),
            folder / "table1",
            f"Table 1. Accuracy by section, percent. {interval}{read_none}{short}",
            note,
        ),
        *write_table(
            adjusted(differences(frame, crossed=crossed)),
            folder / "table1_differences",
            f"Table 1, differences. {ROWS} on the same seeds and pairs, percentage points. "
            f"{adjustment} {interval}{short}",
            note,
        ),
        *write_table(
            beside_paper(table),
            folder / "table1_paper",
            f"Table 1 beside the paper's reported numbers, percent. {PAPER_SCALE}{short}",
            f"Rows of {HERE}: {note}" if note else "",
            digits=2,
        ),
    ]
