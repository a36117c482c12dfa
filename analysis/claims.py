"""The paper's claims (conf/claims.yaml), measured on a results folder and judged by rules."""

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import yaml

from analysis import figure2, figure3, figure4, figure5, figure6, figure7, table1
from analysis.style import method_label, plural, short
from analysis.tables import read_tidy
from rm.errors import InputError

CLAIMS: Final = Path(__file__).parent.parent / "conf" / "claims.yaml"
KEYS: Final = {"id", "text", "where", "paper", "measure", "says", "holds", "fails"}
CONDITION: Final = re.compile(r"(value|low|high) *(<=|>=|<|>) *(-?\d+(?:\.\d+)?)")
COMPARISONS: Final[dict[str, Callable[[float, float], bool]]] = {
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}
HOLDS: Final = "holds"
FAILS: Final = "does not hold"
UNDECIDED: Final = "undecided"
NOT_RUN: Final = "not run"
RESAMPLES: Final = 2000


@dataclass(frozen=True)
class Measured:
    """A number with its interval, and what it rests on: a text ("96 pairs") and training seeds."""

    value: float
    low: float
    high: float
    basis: str
    seeds: int = 1


@dataclass(frozen=True)
class Judged:
    """One claim with our number (None where it was not run), verdict and the reason for it."""

    claim: dict[str, Any]
    measured: Measured | None
    verdict: str
    reason: str = ""


def read_claims(path: Path = CLAIMS) -> list[dict[str, Any]]:
    """Return the claims of a YAML file.

    Raises InputError: the file cannot be read, or a claim lacks a key, names an unknown measure or
    has a rule that cannot be read.
    """
    try:
        claims = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    for claim in claims:
        absent = KEYS - set(claim)
        if absent:
            raise InputError(f"{path}: claim {claim.get('id')} lacks {', '.join(sorted(absent))}")
        if claim["measure"]["name"] not in MEASURES:
            raise InputError(
                f"{path}: claim {claim['id']} names no known measure; known: {', '.join(MEASURES)}"
            )
        for rule in (claim["holds"], claim["fails"]):
            satisfied(rule, Measured(0.0, 0.0, 0.0, ""))
    return claims


def judge_all(data: Path, claims: list[dict[str, Any]]) -> list[Judged]:
    """Measure and judge every claim on the files of a results folder's `data`."""
    return [judge(data, claim) for claim in claims]


def judge(data: Path, claim: dict[str, Any]) -> Judged:
    """Measure and judge one claim: its rule `holds` first, then `fails`, else undecided.

    What the data lacks is "not run", with the reason; fewer training seeds than the claim asks for,
    or a number that is undefined, is "undecided".
    """
    arguments = {key: value for key, value in claim["measure"].items() if key != "name"}
    try:
        measured = MEASURES[claim["measure"]["name"]](data, **arguments)
    except InputError as error:
        return Judged(claim, None, NOT_RUN, str(error))
    if not np.isfinite([measured.value, measured.low, measured.high]).all():
        return Judged(claim, measured, UNDECIDED, "too few pairs for an interval")
    if measured.seeds < claim.get("seeds", 1):
        wanted = plural(measured.seeds, "training seed")
        return Judged(claim, measured, UNDECIDED, f"{wanted}, {claim['seeds']} asked for")
    for verdict, rule in ((HOLDS, claim["holds"]), (FAILS, claim["fails"])):
        if satisfied(rule, measured):
            return Judged(claim, measured, verdict, rule)
    return Judged(claim, measured, UNDECIDED, f"neither {claim['holds']} nor {claim['fails']}")


def satisfied(rule: str, measured: Measured) -> bool:
    """Return whether a rule such as "low > 0.8 and high < 1.25" is true ("and" binds first).

    Raises InputError: the rule cannot be read.
    """
    return any(
        all(condition(part, measured) for part in either.split(" and "))
        for either in rule.split(" or ")
    )


def condition(text: str, measured: Measured) -> bool:
    """Return whether one comparison is true. Raises InputError: it cannot be read."""
    found = CONDITION.fullmatch(text.strip())
    if found is None:
        raise InputError(
            f"rule {text!r} cannot be read: write value, low or high, < or >, a number"
        )
    return COMPARISONS[found[2]](float(getattr(measured, found[1])), float(found[3]))


def interval(draws: np.ndarray) -> tuple[float, float]:
    """Return the 95% percentile interval of the finite draws; NaN where there are none."""
    known = draws[np.isfinite(draws)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)


def median_ratio(
    data: Path, quantity: str, section: str, against: str, method: str = "untrained"
) -> Measured:
    """Median of `quantity` in `section` over that of other sections, bootstrapped over pairs.

    `against`: "smallest", the smallest of the other sections' medians, chosen anew in every
    resample; "rest", the median of all pairs of other sections.
    """
    frame = figure2.mean_over_seeds(figure2.collect(data))
    frame = frame[frame["method"] == method]
    groups = {str(name): part[quantity].to_numpy() for name, part in frame.groupby("section")}
    if section not in groups or len(groups) < 2:
        raise InputError(f"needs pairs of {section} and of another section, of method {method}")
    own, others = groups.pop(section), list(groups.values())
    if against == "rest":
        others = [np.concatenate(others)]
    rng = np.random.default_rng(0)
    whole = [np.arange(len(v))[None, :] for v in (own, *others)]
    drawn = [rng.integers(len(v), size=(RESAMPLES, len(v))) for v in (own, *others)]
    ratios = [
        np.median(own[picks[0]], axis=1)
        / np.min([np.median(v[p], axis=1) for v, p in zip(others, picks[1:], strict=True)], axis=0)
        for picks in (whole, drawn)
    ]
    return Measured(float(ratios[0][0]), *interval(ratios[1]), plural(len(frame), "pair"))


def head_identity(data: Path) -> Measured:
    """Largest relative deviation of the head's gradient norm from error × distance."""
    columns = ["head_gradient_norm", "error", "distance"]
    frame = read_tidy(data / "gradients.csv", columns)
    stated = frame["error"] * frame["distance"]
    known = frame[stated > 0]
    worst = float((known["head_gradient_norm"] / stated[stated > 0] - 1).abs().max())
    return Measured(worst, worst, worst, plural(len(known), "measured pair"))


def within_bins(
    data: Path, update: str, method: str = "untrained"
) -> tuple[float, np.ndarray, int]:
    """Pooled within-bin correlation of update size and distance: value, draws, pairs.

    Both are centred in every bin of the reward difference (`figure3.assign_bins`), so that only
    pairs of like error are compared; the draws redraw pairs with their bins.
    """
    frame = figure3.collect(data)
    frame = frame[frame["method"] == method]
    if frame.empty:
        raise InputError(f"gradients.csv has nothing of method {method}: measure it first")
    bins, _ = figure3.assign_bins(frame)
    kept = frame[bins >= 0]
    codes, names = pd.factorize(kept["pair_id"])
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES)
    weights = np.concatenate([np.ones((1, len(names))), drawn])[:, codes]
    x, y = kept["distance"].to_numpy(), kept[figure3.UPDATES[update]].to_numpy()
    found = centred_correlation(weights, bins[bins >= 0], x, y)
    return float(found[0]), found[1:], len(names)


def centred_correlation(
    weights: np.ndarray, bins: np.ndarray, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """Return the correlation of x and y, centred within bins, per row of weights: (draws,)."""
    sums = np.zeros((3, len(weights)))
    for index in np.unique(bins):
        w = weights[:, bins == index]
        u, v = x[bins == index], y[bins == index]
        total = np.maximum(w.sum(axis=1), 1e-12)
        for place, (a, b) in enumerate(((u, v), (u, u), (v, v))):
            sums[place] += w @ (a * b) - (w @ a) * (w @ b) / total
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[0] / np.sqrt(sums[1] * sums[2])


def update_correlation(data: Path, update: str) -> Measured:
    """Correlation of update size and distance at a like reward difference, untrained backbone."""
    value, draws, pairs = within_bins(data, update)
    return Measured(value, *interval(draws), plural(pairs, "pair"))


def correlation_drop(data: Path) -> Measured:
    """Return |r| under BT minus |r| under NormBT, on the same redrawn pairs; names NormBT's own r.

    Absolute, since a weight that over-corrects, to r = −0.99, depends on the distance no less.
    """
    (bt, bt_draws, pairs), (ours, our_draws, _) = (within_bins(data, u) for u in figure3.UPDATES)
    own, low, high = map(short, (ours, *interval(our_draws)))
    basis = f"{plural(pairs, 'pair')}; NormBT's own r {own} [{low}, {high}]"
    return Measured(abs(bt) - abs(ours), *interval(np.abs(bt_draws) - np.abs(our_draws)), basis)


def proxy_correlation(data: Path) -> Measured:
    """Pearson's r of distance and exact gradient distance over all sections, untrained backbone."""
    frame = figure6.collect(data)
    frame = frame[frame["method"] == "untrained"]
    if frame.empty:
        raise InputError("gradients.csv has nothing of method untrained: measure it first")
    found = figure6.relation(frame, "distance", "gradient_distance")
    ends = (found["pearson_low"], found["pearson_high"])
    return Measured(found["pearson"], *ends, plural(int(found["pairs"]), "pair"))


def mean_weight(data: Path, method: str = "normbt") -> Measured:
    """Mean weight of a method over its steps, averaged over seeds; low and high are seeds."""
    frame = read_tidy(data / "metrics.parquet", [*figure7.KEYS, "weight_mean"])
    means = frame[frame["method"] == method].groupby("seed")["weight_mean"].mean()
    if means.empty:
        raise InputError(f"metrics.parquet has no {method} run")
    ends = (float(means.min()), float(means.max()))
    return Measured(float(means.mean()), *ends, plural(len(means), "seed"), len(means))


def accuracy_difference(data: Path, method: str, minus: str, cell: str) -> Measured:
    """Difference of two methods' accuracies in points (`table1.paired`)."""
    frame = table1.collect(data)
    absent = [name for name in (method, minus) if name not in set(frame["method"])]
    if absent:
        names = ", ".join(method_label(name) for name in absent)
        raise InputError(f"{names} {'was' if len(absent) == 1 else 'were'} not run in this profile")
    table = table1.paired(frame, [(method, minus)], RESAMPLES)
    if table.empty:
        raise InputError(f"{method} and {minus} share no seed: train both with the same seeds")
    row = table.iloc[0]
    basis = f"{plural(int(row['pairs']), 'pair')} × {plural(int(row['seeds']), 'seed')}"
    ends = (float(row[f"{cell}_low"]), float(row[f"{cell}_high"]))
    return Measured(float(row[cell]), *ends, basis, int(row["seeds"]))


def close_gain(data: Path) -> Measured:
    """Accuracy gain NormBT − BT of the closest bin minus that of the farthest (`figure4.trend`)."""
    frame = figure4.collect(data)
    _, part = next(figure4.groups(frame))
    found = figure4.trend(part)
    seeds = part["seed"].nunique()
    basis = f"{plural(part['pair_id'].nunique(), 'pair')} × {plural(seeds, 'seed')}"
    return Measured(found["trend"], found["trend_low"], found["trend_high"], basis, seeds)


def gold_gain(data: Path, method: str, gold: str) -> Measured:
    """Gold score of a NormBT method minus its base's at the largest n (`figure5.collect`)."""
    if not (data / "best_of_n.csv").is_file():
        raise InputError("Best-of-N was not run in this profile")
    frame = figure5.collect(data)
    rows = frame[(frame["method"] == method) & (frame["gold_kind"] == gold)]
    rows = rows[rows["gain"].notna()].nlargest(1, "n")
    if rows.empty:
        raise InputError(f"Best-of-N has no {method_label(method)} beside its base by this gold")
    row = rows.iloc[0]
    seeds = int(row["seeds"])
    basis = f"n = {row['n']}, {plural(int(row['prompts']), 'prompt')} × {plural(seeds, 'seed')}"
    ends = (float(row["gain_low"]), float(row["gain_high"]))
    return Measured(float(row["gain"]), *ends, basis, seeds)


MEASURES: Final[dict[str, Callable[..., Measured]]] = {
    function.__name__: function
    for function in (
        median_ratio,
        head_identity,
        update_correlation,
        correlation_drop,
        proxy_correlation,
        mean_weight,
        accuracy_difference,
        close_gain,
        gold_gain,
    )
}
