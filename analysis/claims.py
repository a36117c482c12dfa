"""The paper's claims (conf/claims.yaml), measured on a results folder and judged by rules."""

import inspect
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import yaml

from analysis import figure2, figure3, figure4, figure5, figure6, figure7, gradients, table1, table5
from analysis.relation import relation
from analysis.style import method_label, plural, short
from analysis.tables import GROUP, AbsentError, of_method, read_tidy, within
from eval.bootstrap import percentile_interval, redrawn, row_weights
from rm.data.preferences import section_key
from rm.errors import InputError

CLAIMS: Final = Path(__file__).parent.parent / "conf" / "claims.yaml"
KEYS: Final = {
    *("id", "text", "where", "paper", "measure", "says", "holds", "fails", "seeds", "pairs")
}
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
CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "against": ("smallest", "rest"),
    "at": ("largest", "worst"),
    "cell": tuple(table1.CELLS),
    "gold": tuple(figure5.GOLDS),
    "quantity": tuple(figure2.QUANTITIES),
    "update": tuple(gradients.UPDATES),
}
"""What a measure's argument may be, by its name, where that is a choice."""


@dataclass(frozen=True)
class Measured:
    """A number with its interval, and what it rests on.

    `basis` says so in words; `pairs`: pairs (or prompts, or the problems behind several pairs), the
    fewest where groups of them are compared; `seeds`: training seeds. None: the number does not
    rest on such. `unit`: what `pairs` counts.
    """

    value: float
    low: float
    high: float
    basis: str
    pairs: int | None = None
    seeds: int | None = None
    unit: str = "pair"


@dataclass(frozen=True)
class Judged:
    """One claim with our number (None where it was not run), verdict and the reason for it."""

    claim: dict[str, Any]
    measured: Measured | None
    verdict: str
    reason: str = ""


def read_claims(path: Path = CLAIMS) -> list[dict[str, Any]]:
    """Return the claims of a YAML file.

    Raises InputError: the file cannot be read, or a claim lacks a key, names an unknown measure,
    gives one what it does not take, or has a rule that cannot be read.
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
        check_measure(claim, path)
        for rule in (claim["holds"], claim["fails"]):
            satisfied(rule, Measured(0.0, 0.0, 0.0, basis=""))
    return claims


def check_measure(claim: dict[str, Any], path: Path) -> None:
    """Raise InputError unless the claim's measure takes the arguments that it is given."""
    arguments = arguments_of(claim)
    try:
        inspect.signature(MEASURES[claim["measure"]["name"]]).bind(path, **arguments)
    except TypeError as error:
        raise InputError(f"{path}: claim {claim['id']}, measure: {error}") from error
    for name, value in arguments.items():
        if value not in CHOICES.get(name, (value,)):
            raise InputError(
                f"{path}: claim {claim['id']}, measure: {name}: {value} is none of "
                f"{', '.join(CHOICES[name])}"
            )


def arguments_of(claim: dict[str, Any]) -> dict[str, Any]:
    """Return what a claim gives its measure."""
    return {key: value for key, value in claim["measure"].items() if key != "name"}


def judge_all(data: Path, claims: list[dict[str, Any]]) -> list[Judged]:
    """Measure and judge every claim on the files of a results folder's `data`."""
    return [judge(data, claim) for claim in claims]


def judge(data: Path, claim: dict[str, Any]) -> Judged:
    """Measure and judge one claim: its rule `holds` first, then `fails`, else undecided.

    What was not run is "not run", with the reason; fewer training seeds or pairs than the claim
    asks for, or a number that is undefined, is "undecided".

    Raises InputError: data that are there are unusable.
    """
    try:
        measured = MEASURES[claim["measure"]["name"]](data, **arguments_of(claim))
    except AbsentError as error:
        return Judged(claim, None, NOT_RUN, within(data, error))
    numbers = {name: getattr(measured, name) for name in ("value", "low", "high")}
    if not np.isfinite([*numbers.values()]).all():
        return Judged(claim, measured, UNDECIDED, "too few pairs for an interval")
    # An interval that ends at 0 ends at 1e-15.
    measured = replace(measured, **{name: round(x, 12) for name, x in numbers.items()})
    for what, name in (("seeds", "training seed"), ("pairs", measured.unit)):
        there = getattr(measured, what)
        if there is not None and there < claim[what]:
            few = f"{plural(there, name)}, {claim[what]} asked for"
            return Judged(claim, measured, UNDECIDED, few)
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
        raise AbsentError(f"needs pairs of {section} and of another section, of method {method}")
    own, others = groups.pop(section), list(groups.values())
    if against == "rest":
        others = [np.concatenate(others)]
    ratios = []
    for sides in ([v[None] for v in (own, *others)], redrawn([own, *others], RESAMPLES)):
        ours, *theirs = (np.median(values, axis=1) for values in sides)
        ratios.append(ours / np.min(theirs, axis=0))
    fewest = min(map(len, (own, *others)))
    basis = f"{plural(len(frame), 'pair')}, {fewest} or more of each side"
    return Measured(float(ratios[0][0]), *percentile_interval(ratios[1]), basis, fewest)


def head_identity(data: Path) -> Measured:
    """Largest relative deviation of the head's gradient norm from error × distance."""
    frame = gradients.read(data, [*gradients.KEYS, "head_gradient_norm", "error", "distance"])
    stated = frame["error"] * frame["distance"]
    known = frame[stated > 0]
    worst = float((known["head_gradient_norm"] / stated[stated > 0] - 1).abs().max())
    return Measured(worst, worst, worst, plural(len(known), "measured pair"), len(known))


def within_bins(
    data: Path, update: str, method: str = "untrained"
) -> tuple[float, np.ndarray, int]:
    """Pooled within-bin correlation of update size and distance: value, draws, pairs.

    Both are centred in every bin of the reward difference (`figure3.assign_bins`), so that only
    pairs of like error are compared; the draws redraw pairs with their bins.
    """
    frame = of_method(figure3.collect(data), method, data / "gradients.csv")
    bins, _ = figure3.assign_bins(frame)
    kept = frame[bins >= 0]
    weights = row_weights(kept["pair_id"].to_numpy(), RESAMPLES)
    x, y = kept["distance"].to_numpy(), kept[gradients.UPDATES[update]].to_numpy()
    found = centred_correlation(weights, bins[bins >= 0], x, y)
    return float(found[0]), found[1:], kept["pair_id"].nunique()


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
    return Measured(value, *percentile_interval(draws), plural(pairs, "pair"), pairs)


def correlation_drop(data: Path) -> Measured:
    """Return |r| under BT minus |r| under NormBT, on the same redrawn pairs; names NormBT's own r.

    Absolute, since a weight that over-corrects, to r = −0.99, depends on the distance no less.
    """
    (bt, bt_draws, pairs), (ours, our_draws, _) = (within_bins(data, u) for u in gradients.UPDATES)
    own, low, high = map(short, (ours, *percentile_interval(our_draws)))
    basis = f"{plural(pairs, 'pair')}; NormBT's own r {own} [{low}, {high}]"
    ends = percentile_interval(np.abs(bt_draws) - np.abs(our_draws))
    return Measured(abs(bt) - abs(ours), *ends, basis, pairs)


def proxy_correlation(data: Path) -> Measured:
    """Pearson's r of distance and exact gradient distance over all sections, untrained backbone."""
    frame = of_method(figure6.collect(data), "untrained", data / "gradients.csv")
    found = relation(frame, "distance", "gradient_distance")
    ends = (found["pearson_low"], found["pearson_high"])
    pairs = int(found["pairs"])
    return Measured(found["pearson"], *ends, plural(pairs, "pair"), pairs)


def mean_weight(data: Path, method: str = "normbt") -> Measured:
    """Mean weight of a method over its steps, averaged over seeds; low and high are seeds."""
    frame = read_tidy(data / "metrics.parquet", [*figure7.KEYS, "weight_mean"])
    means = frame[frame["method"] == method].groupby("seed")["weight_mean"].mean()
    if means.empty:
        raise AbsentError(f"metrics.parquet has no {method} run")
    ends = (float(means.min()), float(means.max()))
    return Measured(float(means.mean()), *ends, plural(len(means), "seed"), seeds=len(means))


def accuracy_difference(data: Path, method: str, minus: str, cell: str) -> Measured:
    """Difference of two methods' accuracies in points (`table1.paired`)."""
    return difference(one_place(table1.collect(data)), method, minus, cell)


def difference_at_rates(
    data: Path, method: str, minus: str, cell: str, rate: float, minus_rate: float
) -> Measured:
    """`accuracy_difference` of two methods with learning rates of their own, from the sweep."""
    if not (data / table5.FILE).is_file():
        raise AbsentError("the sensitivity sweep was not run in this profile")
    frame = table5.collect(data)
    frame = frame[frame["parameter"] == "learning_rate"]
    sides = [
        frame[(frame["method"] == name) & np.isclose(frame["value"].astype(float), at, atol=0)]
        for name, at in ((method, rate), (minus, minus_rate))
    ]
    for side, name, at in zip(sides, (method, minus), (rate, minus_rate), strict=True):
        if side.empty:
            raise AbsentError(f"{method_label(name)} was not swept at a learning rate of {at:g}")
    return difference(one_place(pd.concat(sides)), method, minus, cell)


def difference(frame: pd.DataFrame, method: str, minus: str, cell: str) -> Measured:
    """Return the difference of two methods of `frame` (of `table1.collect`) in points.

    Raises AbsentError: one was not run, or they share no seed.
    """
    absent = [name for name in (method, minus) if name not in set(frame["method"])]
    if absent:
        names = ", ".join(method_label(name) for name in absent)
        raise AbsentError(
            f"{names} {'was' if len(absent) == 1 else 'were'} not run in this profile"
        )
    table = table1.paired(frame, [(method, minus)], RESAMPLES)
    if table.empty:
        raise AbsentError(f"{method} and {minus} share no seed: train both with the same seeds")
    row, seeds = table.iloc[0], int(table.iloc[0]["seeds"])
    if cell != "average":
        frame = frame[frame["section"].map(section_key) == cell]
    words, units, unit = counted(frame)
    basis = f"{words} × {plural(seeds, 'seed')}"
    ends = (float(row[f"{cell}_low"]), float(row[f"{cell}_high"]))
    return Measured(float(row[cell]), *ends, basis, units, seeds, unit)


def counted(frame: pd.DataFrame) -> tuple[str, int, str]:
    """Return how many pairs `frame` has, in words; how many units can be redrawn apart; of what.

    Pairs of one problem (`cluster`) are redrawn together, so a claim rests on so many problems.
    """
    pairs, units = frame["pair_id"].nunique(), frame["cluster"].nunique()
    if units == pairs:
        return plural(pairs, "pair"), pairs, "pair"
    return f"{plural(pairs, 'pair')} of {plural(units, 'problem')}", units, "problem"


def close_gain(data: Path) -> Measured:
    """Accuracy gain NormBT − BT of the closest bin minus that of the farthest (`figure4.trend`)."""
    frame = one_place(figure4.collect(data))
    found = figure4.trend(frame)
    places, edges = figure4.assign_bins(frame)
    close, far = (counted(frame[places == at]) for at in (0, len(edges) - 2))
    seeds = frame["seed"].nunique()
    basis = f"{close[0]} and {far[0]} × {plural(seeds, 'seed')}"
    ends = (found["trend_low"], found["trend_high"])
    _, units, unit = min(close, far, key=lambda side: side[1])
    return Measured(found["trend"], *ends, basis, units, seeds, unit)


def one_place(frame: pd.DataFrame) -> pd.DataFrame:
    """Return `frame` if all of it is of one backbone, training data and benchmark.

    Raises InputError: it is not, so that a claim would be about several things.
    """
    places = frame[GROUP].drop_duplicates()
    if len(places) > 1:
        names = "; ".join(" · ".join(map(str, place)) for place in places.to_numpy())
        raise InputError(f"claims are judged on one backbone, data set and benchmark, not {names}")
    return frame


def gold_gain(data: Path, method: str, gold: str, at: str) -> Measured:
    """Gold score of a NormBT method minus its base's (`figure5.collect`).

    `at`: "largest", the largest n; "worst", the n of the smallest gain, with the smallest lower and
    the smallest upper end over all n above 1 (at n = 1 all methods pick alike). So low > 0 says
    that the method is ahead at every n, and high < 0 that it is behind at one at least.
    """
    if not (data / "best_of_n.csv").is_file():
        raise AbsentError("Best-of-N was not run in this profile")
    frame = figure5.collect(data)
    rows = frame[(frame["method"] == method) & (frame["gold_kind"] == gold)]
    rows = rows[rows["gain"].notna() & (rows["n"] > 1)]
    if rows.empty:
        raise AbsentError(f"Best-of-N has no {method_label(method)} beside its base by this gold")
    if at == "largest":
        rows = rows.nlargest(1, "n")
    row = rows.nsmallest(1, "gain").iloc[0]
    prompts, seeds = int(row["prompts"]), int(row["seeds"])
    basis = f"n = {row['n']}, {plural(prompts, 'prompt')} × {plural(seeds, 'seed')}"
    if at == "worst":
        behind = int((rows["gain_high"] < 0).sum())
        basis += f"; behind at {behind} of {len(rows)} n"
    if row["quality"]:
        basis += f"; {row['quality'][0].lower()}{row['quality'][1:].rstrip('.')}"
    ends = (float(rows["gain_low"].min()), float(rows["gain_high"].min()))
    return Measured(float(row["gain"]), *ends, basis, prompts, seeds, "prompt")


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
        difference_at_rates,
        close_gain,
        gold_gain,
    )
}
