"""The claims of conf/claims.yaml, measured on a results folder and judged by their margins."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import yaml

from analysis import figure2, figure3, figure5, figure6, figure7, gradients, table1
from analysis.relation import relation
from analysis.style import method_label, plural, section_label, short
from analysis.tables import GROUP, AbsentError, of_method, read_tidy, within
from eval import crossed, strata, verdicts
from eval.bootstrap import percentile_interval, redrawn, row_weights
from eval.crossed import Student
from eval.spreadsheet import read_csv
from eval.verdicts import (
    INCONCLUSIVE,
    NOT_TESTABLE,
    Estimate,
    Margins,
    Verdict,
    judge_alone,
)
from rm.data.preferences import section_key
from rm.errors import InputError

CLAIMS: Final = Path(__file__).parent.parent / "conf" / "claims.yaml"
KINDS: Final = ("primary", "secondary")
KEYS: Final = {*("id", "kind", "text", "where", "paper", "measure", "says", "margins")}
IDENTITY_KEYS: Final = {*("id", "kind", "text", "why", "test")}
NOT_RUN: Final = "not run"
RESAMPLES: Final = 2000
FEWEST_SEEDS: Final = 3
FEWEST_PAIRS: Final = 30
"""Fewer training seeds, or pairs of a side, give no verdict but "inconclusive"."""
CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "cell": tuple(table1.CELLS),
    "gold": tuple(figure5.GOLDS),
    "quantity": tuple(figure2.QUANTITIES),
    "update": tuple(gradients.UPDATES),
}
"""What a measure's argument may be, by its name, where that is a choice."""


@dataclass(frozen=True)
class Stated:
    """A number with its 95% interval alone: no rule can ask for another level."""

    value: float
    low: float
    high: float

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the interval. Raises InputError for a level other than 95%."""
        if not np.isclose(level, 0.95):
            raise InputError(
                "this measure has a 95% interval only: its margins take supported, and refuted "
                "with refuted_by: high"
            )
        return self.low, self.high


@dataclass(frozen=True)
class Measured:
    """An estimate and what it rests on.

    `basis` says so in words; `pairs`: pairs (or prompts, or the clusters that pairs share), the
    fewest where groups of them are compared; `seeds`: training seeds. None: the number does not
    rest on such. `sides`: of a difference of accuracies the two, (minus, method) in percent.
    """

    estimate: Estimate
    basis: str
    pairs: int | None = None
    seeds: int | None = None
    sides: tuple[float, float] | None = None

    @property
    def low(self) -> float:
        """Lower end of the 95% interval."""
        return self.estimate.interval()[0]

    @property
    def high(self) -> float:
        """Upper end of the 95% interval."""
        return self.estimate.interval()[1]

    @property
    def enough(self) -> str:
        """Return what there is too little of for a verdict; "" if of nothing."""
        if not np.isfinite([self.estimate.value, self.low, self.high]).all():
            return "too few pairs for an interval"
        for what, there, asked in (
            ("training seed", self.seeds, FEWEST_SEEDS),
            ("pair", self.pairs, FEWEST_PAIRS),
        ):
            if there is not None and there < asked:
                return f"{plural(there, what)}, {asked} asked for"
        return ""


@dataclass(frozen=True)
class Claim:
    """A claim of conf/claims.yaml.

    `gate`: the sections that BT must have learned. `question`: what README's table asks, or "".
    """

    id: str
    kind: str
    text: str
    where: str
    paper: str
    says: str
    measure: Mapping[str, Any]
    margins: Margins
    unit: str = "points"
    gate: tuple[str, ...] = ()
    question: str = ""


@dataclass(frozen=True)
class Identity:
    """A claim that is arithmetic: `why` it is, and the test that shows it. It has no verdict."""

    id: str
    text: str
    why: str
    test: str
    kind: str = "identity"


@dataclass(frozen=True)
class Claims:
    """The claims of a file, and the accuracies in percent that its gates ask BT for."""

    claims: tuple[Claim, ...]
    identities: tuple[Identity, ...]
    gates: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Judged:
    """One claim with our number (None where it was not run) and its verdict."""

    claim: Claim
    measured: Measured | None
    verdict: str
    reason: str = ""
    p_holm: float = float("nan")

    def open_as(self, kind: str) -> bool:
        """Return whether it is a claim of this kind whose margins have to say the verdict."""
        return self.verdict == "" and self.claim.kind == kind

    def with_verdict(self, found: Verdict | None) -> "Judged":
        """Return the same with the verdict that was found."""
        if found is None:
            return self
        return replace(self, verdict=found.verdict, reason=found.reason, p_holm=found.p_holm)


def read_claims(path: Path = CLAIMS) -> Claims:
    """Return the claims of a YAML file.

    Raises InputError: the file cannot be read, or a claim lacks a key, has one too many, names an
    unknown measure, gives one what it does not take, or has margins that are none.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    claims, identities = [], []
    for one in content["claims"]:
        if one.get("kind") == "identity":
            _check_keys(one, IDENTITY_KEYS, set(), path)
            identities.append(Identity(**one))
        else:
            _check_keys(one, KEYS, {"unit", "gate", "question"}, path)
            claims.append(_claim(one, path))
    return Claims(tuple(claims), tuple(identities), content["gates"])


def _check_keys(claim: Mapping[str, Any], needed: set[str], more: set[str], path: Path) -> None:
    for what, keys in (
        ("lacks", needed - set(claim)),
        ("has an unknown", set(claim) - needed - more),
    ):
        if keys:
            raise InputError(f"{path}: claim {claim.get('id')} {what} {', '.join(sorted(keys))}")


def _claim(one: Mapping[str, Any], path: Path) -> Claim:
    where = f"{path}: claim {one['id']}"
    if one["kind"] not in KINDS:
        raise InputError(f"{where}: kind {one['kind']}: choose {', '.join(KINDS)} or identity")
    check_measure(one["measure"], where)
    unknown = set(one["margins"]) - {entry.name for entry in fields(Margins)}
    if unknown:
        raise InputError(f"{where}: margins: unknown {', '.join(sorted(unknown))}")
    return Claim(
        **{**one, "margins": Margins(**one["margins"]), "gate": tuple(one.get("gate", ()))}
    )


def check_measure(measure: Mapping[str, Any], where: str) -> None:
    """Raise InputError unless a measure is known and takes the arguments that it is given."""
    if measure["name"] not in MEASURES:
        raise InputError(f"{where} names no known measure; known: {', '.join(MEASURES)}")
    arguments = arguments_of(measure)
    try:
        inspect.signature(MEASURES[measure["name"]]).bind(Path(), **arguments)
    except TypeError as error:
        raise InputError(f"{where}, measure: {error}") from error
    for name, value in arguments.items():
        if value not in CHOICES.get(name, (value,)):
            raise InputError(
                f"{where}, measure: {name}: {value} is none of {', '.join(CHOICES[name])}"
            )


def arguments_of(measure: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a claim gives its measure."""
    return {key: value for key, value in measure.items() if key != "name"}


def judge_all(data: Path, claims: Claims) -> list[Judged]:
    """Measure and judge every claim on the files of a results folder's `data`.

    What was not run is "not run", with the reason; too few seeds or pairs, or a number that is
    undefined, is inconclusive. Holm's correction is over the primary claims that were run.

    Raises InputError: data that are there are unusable.
    """
    failed = failed_gates(data, claims)
    done = [_judge_without_rule(data, one, failed) for one in claims.claims]
    estimates = {one.claim.id: one.measured.estimate for one in done if one.measured}
    open_ = {kind: [one.claim for one in done if one.open_as(kind)] for kind in KINDS}
    found = verdicts.judge(
        {one.id: one.margins for one in open_["primary"]},
        {one.id: _student(estimates[one.id], one) for one in open_["primary"]},
    )
    found |= {one.id: judge_alone(one.margins, estimates[one.id]) for one in open_["secondary"]}
    return [one.with_verdict(found.get(one.claim.id)) for one in done]


def _student(estimate: Estimate, claim: Claim) -> Student:
    if not isinstance(estimate, Student):
        raise InputError(f"claim {claim.id} is primary: its measure must have a standard error")
    return estimate


def _judge_without_rule(data: Path, claim: Claim, failed: Mapping[str, str]) -> Judged:
    """Measure a claim; its verdict is "" where its rule has to say."""
    try:
        measured = MEASURES[claim.measure["name"]](data, **arguments_of(claim.measure))
    except AbsentError as error:
        return Judged(claim, None, NOT_RUN, within(data, error))
    if reasons := [failed[cell] for cell in claim.gate if cell in failed]:
        return Judged(claim, measured, NOT_TESTABLE, "; ".join(reasons))
    few = measured.enough
    return Judged(claim, measured, INCONCLUSIVE if few else "", few)


def failed_gates(data: Path, claims: Claims) -> dict[str, str]:
    """Return the sections that BT has not learned → why claims about them are not testable.

    By BT's accuracy on validation pairs at the learning rate that was chosen (data/grid.csv), or on
    the benchmark where no rate was chosen on pairs with sections. An empty dict where BT was not
    run.
    """
    try:
        accuracies, where = _bt_accuracies(data)
    except AbsentError:
        return {}
    least = claims.gates[where]
    return {
        cell: f"BT reaches {value:.1f}% on {section_label(cell)} ({where}), {least:g} asked for"
        for cell, value in accuracies.items()
        if value < least
    }


def _bt_accuracies(data: Path) -> tuple[dict[str, float], str]:
    """Return BT's accuracy in percent by section, and on which pairs."""
    cells = [cell for cell in table1.CELLS if cell != "average"]
    if (data / "grid.csv").is_file():
        grid = read_csv(data / "grid.csv")
        chosen = grid[grid["chosen"] & (grid["method"] == "bt")]
        known = [cell for cell in cells if cell in grid]
        if known and len(chosen):
            return {cell: 100 * float(chosen[cell].mean()) for cell in known}, "validation"
    rows = table1.collect(data)
    bt = rows[rows["method"] == "bt"]
    if bt.empty:
        raise AbsentError("BT was not run in this profile")
    means = 100 * bt.groupby(bt["section"].map(section_key))["correct"].mean()
    return {str(cell): float(value) for cell, value in means.items()}, "benchmark"


def median_ratio(data: Path, quantity: str, section: str) -> Measured:
    """Smallest median of the other sections over that of `section`, of the untrained backbone.

    Above 1 where `section` is the smallest. Bootstrapped over pairs; which of the other sections is
    the smallest is found in every resample.
    """
    frame = figure2.mean_over_seeds(figure2.collect(data))
    frame = frame[frame["method"] == "untrained"]
    groups = {str(name): part[quantity].to_numpy() for name, part in frame.groupby("section")}
    if section not in groups or len(groups) < 2:
        raise AbsentError(f"needs pairs of {section} and of another section")
    own, others = groups.pop(section), list(groups.values())
    ratios = []
    for sides in ([v[None] for v in (own, *others)], redrawn([own, *others], RESAMPLES)):
        ours, *theirs = (np.median(values, axis=1) for values in sides)
        ratios.append(np.min(theirs, axis=0) / ours)
    fewest = min(map(len, (own, *others)))
    basis = f"{plural(len(frame), 'pair')}, {fewest} or more of each section"
    ends = percentile_interval(ratios[1])
    return Measured(Stated(float(ratios[0][0]), *ends), basis, len(frame))


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
    stated = Stated(value, *percentile_interval(draws))
    return Measured(stated, plural(pairs, "pair"), pairs)


def correlation_drop(data: Path) -> Measured:
    """Return |r| under BT minus |r| under NormBT, on the same redrawn pairs; names NormBT's own r.

    Absolute, since a weight that over-corrects, to r = −0.99, depends on the distance no less.
    """
    (bt, bt_draws, pairs), (ours, our_draws, _) = (within_bins(data, u) for u in gradients.UPDATES)
    own, low, high = map(short, (ours, *percentile_interval(our_draws)))
    basis = f"{plural(pairs, 'pair')}; NormBT's own r {own} [{low}, {high}]"
    ends = percentile_interval(np.abs(bt_draws) - np.abs(our_draws))
    return Measured(Stated(abs(bt) - abs(ours), *ends), basis, pairs)


def proxy_correlation(data: Path) -> Measured:
    """Pearson's r of distance and exact gradient distance of the backbone, untrained.

    Without the score head: its part of ∇_θ(r_w − r_l) is h_w − h_l, the distance itself.
    """
    frame = of_method(figure6.collect(data), "untrained", data / "gradients.csv")
    rest = frame["gradient_distance"] ** 2 - frame["distance"] ** 2
    found = relation(frame.assign(backbone=np.sqrt(rest.clip(lower=0))), "distance", "backbone")
    pairs = int(found["pairs"])
    stated = Stated(found["pearson"], found["pearson_low"], found["pearson_high"])
    return Measured(stated, plural(pairs, "pair"), pairs)


def mean_weight(data: Path, method: str = "normbt") -> Measured:
    """Mean weight of a method over its steps, minus 1: mean and Student's t over seeds."""
    frame = read_tidy(data / "metrics.parquet", [*figure7.KEYS, "weight_mean"])
    means = frame[frame["method"] == method].groupby("seed")["weight_mean"].mean().to_numpy() - 1
    if not len(means):
        raise AbsentError(f"metrics.parquet has no {method} run")
    error = means.std(ddof=1) / np.sqrt(len(means)) if len(means) > 1 else float("nan")
    student = Student(float(means.mean()), float(error), max(len(means) - 1, 1))
    return Measured(student, plural(len(means), "seed"), seeds=len(means))


def accuracy_difference(data: Path, method: str, minus: str, cell: str) -> Measured:
    """Difference of two methods' accuracies in points, over new seeds and new pairs."""
    both, protocol = differences(data, method, minus)
    present = sorted(both["subset"].unique())
    targets = {
        section_key(name): weights
        for (level, name), weights in crossed.targets(protocol, present).items()
        if level != "subset"
    }
    if cell not in targets:
        raise AbsentError(f"the benchmark has no {section_label(cell)} pairs")
    means = both.groupby("subset")[["accuracy", "minus_accuracy"]].mean()
    weights = pd.Series(targets[cell])
    ours, base = (100 * float(means[name].mul(weights).sum()) for name in means)
    return replace(over_seeds_and_pairs(both, targets[cell]), sides=(base, ours))


def close_minus_far(data: Path, method: str, minus: str, cell: str) -> Measured:
    """Difference on close pairs minus that on far pairs of a section, in points.

    Subsets of the generated data are named by their wrapping: …-close and …-far have the same
    faults. Each side weighs its subsets by their pairs.
    """
    both, _ = differences(data, method, minus)
    both = both[both["section"].map(section_key) == cell]
    counts = both.drop_duplicates("pair_id")["subset"].value_counts()
    sides = {
        sign: counts[counts.index.str.endswith(f"-{name}")]
        for sign, name in ((1, "close"), (-1, "far"))
    }
    if any(side.empty for side in sides.values()):
        raise AbsentError("the benchmark has no close and far pairs: it needs data=generated_v2")
    weights = {
        str(subset): sign * count / side.sum()
        for sign, side in sides.items()
        for subset, count in side.items()
    }
    return over_seeds_and_pairs(both[both["subset"].isin(weights)], weights)


def over_seeds_and_pairs(both: pd.DataFrame, weights: Mapping[str, float]) -> Measured:
    """Estimate Σ weight × mean difference of a subset, in points (`eval.crossed.estimate`)."""
    seeds = both["seed"].nunique()
    of_seeds = plural(seeds, "seed")
    kept = both[both["subset"].isin([name for name, weight in weights.items() if weight])]
    pairs = kept["pair_id"].nunique()
    basis = f"{plural(pairs, 'pair')} × {of_seeds}"
    if seeds < 2:
        mean = kept.groupby("subset")["correct"].mean()
        value = 100 * float(sum(weights[name] * mean[name] for name in mean.index))
        return Measured(Student(value, float("nan"), 1), basis, pairs, seeds)
    found = crossed.estimate(both, weights)
    of = found.population
    if found.units != pairs:
        basis = (
            f"{plural(pairs, 'pair')} in {plural(found.units, 'cluster')} × {plural(seeds, 'seed')}"
        )
    return Measured(Student(100 * of.value, 100 * of.error, of.df), basis, found.units, seeds)


def differences(data: Path, method: str, minus: str) -> tuple[pd.DataFrame, Any]:
    """Return the pairs' differences of two methods of the same seeds, and the protocol.

    Beside the columns of `eval.strata.paired`: section, accuracy and minus_accuracy (0 or 1).

    Raises AbsentError: one was not run, or they share no seed.
    """
    frame = one_place(table1.collect(data))
    absent = [name for name in (method, minus) if name not in set(frame["method"])]
    if absent:
        names = ", ".join(method_label(name) for name in absent)
        raise AbsentError(
            f"{names} {'was' if len(absent) == 1 else 'were'} not run in this profile"
        )
    ours, base = (frame[frame["method"] == name] for name in (method, minus))
    both = strata.paired(ours, base)
    if both.empty:
        raise AbsentError(f"{method} and {minus} share no seed: train both with the same seeds")
    keys = ["seed", "pair_id"]
    both = both.merge(
        ours[[*keys, "section", "correct"]].rename(columns={"correct": "accuracy"}), on=keys
    ).merge(base[[*keys, "correct"]].rename(columns={"correct": "minus_accuracy"}), on=keys)
    return both, table1.protocol_of(str(frame["benchmark"].iloc[0]), frame)


def one_place(frame: pd.DataFrame) -> pd.DataFrame:
    """Return `frame` if all of it is of one backbone, training data and benchmark.

    Raises InputError: it is not, so that a claim would be about several things.
    """
    places = frame[GROUP].drop_duplicates()
    if len(places) > 1:
        names = "; ".join(" · ".join(map(str, place)) for place in places.to_numpy())
        raise InputError(f"claims are judged on one backbone, data set and benchmark, not {names}")
    return frame


def gold_gain(data: Path, method: str, gold: str) -> Measured:
    """Gold score of a NormBT method minus its base's at the largest n (`figure5.collect`)."""
    if not (data / "best_of_n.csv").is_file():
        raise AbsentError("Best-of-N was not run in this profile")
    frame = figure5.collect(data)
    rows = frame[(frame["method"] == method) & (frame["gold_kind"] == gold)]
    rows = rows[rows["gain"].notna() & (rows["n"] > 1)]
    if rows.empty:
        raise AbsentError(f"Best-of-N has no {method_label(method)} beside its base by this gold")
    row = rows.nlargest(1, "n").iloc[0]
    prompts, seeds = int(row["prompts"]), int(row["seeds"])
    basis = f"n = {row['n']}, {plural(prompts, 'prompt')} × {plural(seeds, 'seed')}"
    if row["quality"]:
        basis += f"; {row['quality'][0].lower()}{row['quality'][1:].rstrip('.')}"
    stated = Stated(*(float(row[name]) for name in ("gain", "gain_low", "gain_high")))
    return Measured(stated, basis, prompts, seeds)


MEASURES: Final[dict[str, Callable[..., Measured]]] = {
    function.__name__: function
    for function in (
        median_ratio,
        update_correlation,
        correlation_drop,
        proxy_correlation,
        mean_weight,
        accuracy_difference,
        close_minus_far,
        gold_gain,
    )
}
