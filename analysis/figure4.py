"""Figure 4: the pairs on which BT and NormBT disagree, by distance of the untrained backbone.

Same seed, same pair, right in one model and wrong in the other. Pairs are binned by quantiles of
‖h_w − h_l‖ over all evaluation pairs, before any training. Seeds repeat pairs, so intervals never
treat two seeds of one pair as two observations: they redraw training seeds and then pairs, the same
pairs for all seeds (as table 1's do), or give each pair one vote.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style
from analysis.relation import quantile_bins
from analysis.style import method_label, plural, short, wrap
from analysis.tables import GROUP, AbsentError, of_method, read_scores, require
from eval.bootstrap import bounds, draw_counts
from eval.statistics import binomial_interval
from eval.strata import pair_up
from rm.errors import InputError

COLUMNS: Final = [
    *(*GROUP, "seed", "pair_id", "cluster", "distance"),
    *("correct_bt", "correct_normbt"),
]
COUNTS: Final = ["seeds", "bt", "normbt"]
"""What is summed over rows: a row itself, BT alone right, NormBT alone right."""
BINS: Final = 6


def collect(data: Path) -> pd.DataFrame:
    """Return one row per seed and pair that both methods scored, from `data`/scores.parquet.

    Columns: backbone, data, benchmark, seed, pair_id, cluster (pairs of one problem, resampled
    together), distance (‖h_w − h_l‖ of the *untrained* backbone), correct_bt, correct_normbt (True
    where the chosen response scores higher; a tie is a loss).

    Raises InputError: the file or a method is missing, no seed is shared, or a pair lacks distance.
    """
    path = data / "scores.parquet"
    scores = read_scores(path)
    first, second = (of_method(scores, name, path) for name in ("bt", "normbt"))
    keys = [*GROUP, "seed", "pair_id"]
    both = pair_up(first, second, keys, "correct", str(path))
    both = both.rename(columns={"correct_left": "correct_bt", "correct_right": "correct_normbt"})
    both = both.merge(first[[*keys, "cluster"]], on=keys)
    if both.empty:
        raise AbsentError(f"{path}: bt and normbt share no seed: train both with the same seeds")
    return with_distance(both, of_method(scores, "untrained", path), path)[COLUMNS]


def with_distance(both: pd.DataFrame, untrained: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Return `both` with the untrained backbone's distance of every pair.

    Raises InputError: a pair has none.
    """
    keys = ["backbone", "benchmark", "pair_id"]  # no training data: the backbone is untrained
    distances = untrained.sort_values("seed").drop_duplicates(keys)[[*keys, "distance"]]
    joined = both.merge(distances, on=keys, how="left", validate="many_to_one")
    missing = int(joined["distance"].isna().sum())
    if missing:
        raise InputError(
            f"{path}: {missing} rows have no distance of the untrained backbone: "
            "evaluate it on the same pairs"
        )
    return joined


def assign_bins(frame: pd.DataFrame, bins: int = BINS) -> tuple[np.ndarray, np.ndarray]:
    """Return each row's bin, 0 the closest pairs, and the edges: quantiles over distinct pairs."""
    distances = frame.drop_duplicates("pair_id")["distance"].to_numpy()
    return quantile_bins(frame["distance"].to_numpy(), distances, bins)


def bin_table(
    frame: pd.DataFrame, bins: int = BINS, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Return one row per bin of distance for one backbone, data set and benchmark.

    Columns: bin (0 = closest), low, high (its edges), pairs (distinct pairs), wins_bt, wins_normbt
    (disagreements won, counted over seeds), share (NormBT's part of them) with share_low and
    share_high (percentile bootstrap over seeds and then pairs); voting (pairs with a majority over
    seeds), votes (those for NormBT), vote, vote_low, vote_high (their part, exact binomial);
    difference (accuracy NormBT − BT over all pairs of the bin, percentage points) with
    difference_low and difference_high (the same bootstrap). Unknown values are NaN.
    """
    place, edges = assign_bins(frame, bins)
    seeds = sorted(frame["seed"].unique().tolist())
    rows = []
    for index in range(len(edges) - 1):
        part = frame[place == index]
        rows.append(
            {"bin": index, "low": edges[index], "high": edges[index + 1]}
            | bin_row(part, seeds, resamples, seed + index)
        )
    return pd.DataFrame(rows)


def summed(part: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Return `COUNTS` summed within groups of rows that share `keys`, which are the index."""
    bt, normbt = part["correct_bt"].astype(bool), part["correct_normbt"].astype(bool)
    wins = part.assign(bt=bt & ~normbt, normbt=normbt & ~bt, seeds=1)
    return wins.groupby(keys)[COUNTS].sum().astype(int)


def per_seed(part: pd.DataFrame, seeds: list[int]) -> np.ndarray:
    """Return `COUNTS` of every seed and cluster of pairs: (seeds, 3, clusters), 0 where absent."""
    wide = summed(part, ["seed", "cluster"]).unstack("cluster", fill_value=0)
    return wide.reindex(seeds, fill_value=0).to_numpy().reshape(len(seeds), len(COUNTS), -1)


def resampled(
    parts: Sequence[np.ndarray], resamples: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Return each part's `COUNTS` (of `per_seed`) over redrawn seeds and clusters: (3, resamples).

    As in `eval.statistics.section_intervals`, the redrawn seeds are the same for all parts and for
    both methods, and the redrawn clusters, of each part by itself, the same for all seeds. With one
    seed only clusters vary.
    """
    # Clusters first: what is drawn of them does not depend on the number of seeds.
    clusters = [draw_counts(rng, resamples, part.shape[2]) for part in parts]
    seeds = draw_counts(rng, resamples, len(parts[0]))
    return [
        ((part @ drawn.T) * seeds.T[:, None]).sum(axis=0)
        for part, drawn in zip(parts, clusters, strict=True)
    ]


def gain(counts: np.ndarray) -> np.ndarray:
    """Return the accuracy difference NormBT − BT, percentage points, of `COUNTS` (3, …)."""
    total, lost, won = counts
    with np.errstate(invalid="ignore"):  # no row where the drawn seeds have none in this bin
        return 100.0 * (won - lost) / total


def bin_row(part: pd.DataFrame, seeds: list[int], resamples: int, seed: int) -> dict[str, float]:
    """Return the counts, shares and intervals of one bin from its rows of `seeds`."""
    pairs = summed(part, ["pair_id"])
    bt, normbt = pairs["bt"].to_numpy(), pairs["normbt"].to_numpy()
    counts = per_seed(part, seeds)
    (draws,) = resampled([counts], resamples, np.random.default_rng(seed))
    _, lost, won = draws
    with np.errstate(invalid="ignore"):
        shares = won / (won + lost)
    votes, voting = int((normbt > bt).sum()), int((normbt != bt).sum())
    contested = int(normbt.sum() + bt.sum())
    return {
        "pairs": len(pairs),
        "wins_bt": int(bt.sum()),
        "wins_normbt": int(normbt.sum()),
        "share": normbt.sum() / contested if contested else float("nan"),
        **bounds("share", shares),
        "voting": voting,
        "votes": votes,
        "vote": votes / voting if voting else float("nan"),
        **exact("vote", votes, voting),
        "difference": float(gain(counts.sum(axis=(0, 2)))),
        **bounds("difference", gain(draws)),
    }


def exact(name: str, hits: int, trials: int) -> dict[str, float]:
    """Return the 95% Clopper–Pearson interval of hits / trials; NaN without trials."""
    if not trials:
        return {f"{name}_low": float("nan"), f"{name}_high": float("nan")}
    low, high = binomial_interval(hits, trials)
    return {f"{name}_low": low, f"{name}_high": high}


def trend(
    frame: pd.DataFrame, bins: int = BINS, resamples: int = 2000, seed: int = 0
) -> dict[str, float]:
    """Return the accuracy gain of the closest bin minus that of the farthest, in points.

    Keys: trend, trend_low, trend_high (bootstrap over seeds, the same for both bins, and then over
    the pairs of each bin); NaN with one bin.
    """
    place, edges = assign_bins(frame, bins)
    if len(edges) < 3:
        return dict.fromkeys(("trend", "trend_low", "trend_high"), float("nan"))
    seeds = sorted(frame["seed"].unique().tolist())
    parts = [per_seed(frame[place == index], seeds) for index in (0, len(edges) - 2)]
    close, far = (gain(part.sum(axis=(0, 2))) for part in parts)
    close_draws, far_draws = map(gain, resampled(parts, resamples, np.random.default_rng(seed)))
    return {"trend": float(close - far), **bounds("trend", close_draws - far_draws)}


def groups(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield a name and the rows of every backbone, data set and benchmark."""
    for key, part in frame.groupby(GROUP, sort=True):
        yield " · ".join(str(value) for value in key), part


def verdict(table: pd.DataFrame, slope: dict[str, float]) -> str:
    """Return in which bin NormBT gains most and whether close pairs gain more than far ones."""
    if table[["wins_bt", "wins_normbt"]].to_numpy().sum() == 0:
        return "BT and NormBT never disagree"
    if len(table) == 1:
        return "All pairs have the same distance: one bin, nothing to compare"
    best = table.iloc[int(table["difference"].to_numpy().argmax())]
    where = f"largest in bin {int(best['bin']) + 1} of {len(table)} (1 = closest pairs)"
    low, high = slope["trend_low"], slope["trend_high"]
    size = f"{slope['trend']:+.1f} [{low:+.1f}, {high:+.1f}] points".replace("-", "−")
    best_gain = f"{best['difference']:+.1f}".replace("-", "−")
    gain = f"{where}: {best_gain} points" if best["difference"] > 0 else "positive in no bin"
    compared = "The difference between closest and farthest bin is inconclusive"
    if low > 0 or high < 0:
        compared = f"The closest bin gains {'more' if low > 0 else 'less'} than the farthest"
    return f"NormBT's accuracy gain over BT is {gain}. {compared}: {size}"


@style.styled
def draw(frame: pd.DataFrame, note: str = "") -> Figure:
    """Return the figure: wins, NormBT's share of them and accuracy difference, by distance.

    One row of panels per backbone, data set and benchmark in `frame` (what `collect` returns).

    Raises InputError: the frame has no rows or lacks a column.
    """
    require(frame, COLUMNS, "figure 4's data")
    parts = list(groups(frame))
    figure = style.new_figure(height=1.35 + 2.35 * len(parts))
    title = "Where BT and NormBT disagree, by distance of the untrained backbone"
    strips = figure.subfigures(len(parts), 1, squeeze=False)
    for rows, (name, part) in zip(strips.flat, parts, strict=True):
        table = bin_table(part)
        draw_row(rows.subplots(1, 3), table, assign_bins(part)[1])
        found = verdict(table, trend(part))
        if len(parts) == 1:
            title = found
        else:
            rows.suptitle(wrap(f"{name}: {found}", 110), x=0.01, ha="left", fontsize=8)
    style.add_text(figure, title, caption(frame), note)
    return figure


def caption(frame: pd.DataFrame) -> str:
    """Return what is counted and how its intervals are made."""
    pairs = frame.drop_duplicates([*GROUP, "pair_id"])
    apart = frame["correct_bt"].astype(bool) != frame["correct_normbt"].astype(bool)
    return (
        f"{plural(len(pairs), 'pair')}, {plural(frame['seed'].nunique(), 'seed')}, "
        f"{plural(int(apart.sum()), 'disagreement')} counted over seeds. Bins: quantiles of the "
        "untrained backbone's distance over all pairs. Seeds repeat pairs: filled points pool "
        "seeds, with 95% bootstrap over seeds and then pairs (whole problems where pairs share "
        "one), as is closest minus farthest; with few seeds it underestimates seed-to-seed "
        "variation. Open points give each pair one vote (majority over seeds), with 95% "
        "Clopper–Pearson, as if no two shared a problem. A tie counts as a loss."
    )


def draw_row(row: np.ndarray, table: pd.DataFrame, edges: np.ndarray) -> None:
    """Draw the three panels of one group: wins, share, accuracy difference."""
    draw_wins(row[0], table)
    draw_share(row[1], table)
    draw_difference(row[2], table)
    for axes in row:
        axes.set_xticks(np.arange(len(edges)) - 0.5, [short(edge, 2) for edge in edges])
        axes.tick_params(axis="x", labelsize=5.5)
        axes.set_xlim(-0.6, len(table) - 0.4)
        axes.set_xlabel(r"untrained $\Vert h_w - h_l\Vert_2$" "\n(activation units)")
        axes.grid(axis="x", visible=False)


def draw_wins(axes: Axes, table: pd.DataFrame) -> None:
    """Draw both methods' wins in every bin as two bars with their counts."""
    for method, shift in (("bt", -0.2), ("normbt", 0.2)):
        bars = axes.bar(
            table["bin"] + shift,
            table[f"wins_{method}"],
            width=0.4,
            color=style.METHOD_COLOURS[method],
            label=f"only {method_label(method)} right",
        )
        axes.bar_label(bars, fontsize=5.5, padding=1)
    top = max(1.0, float(table[["wins_bt", "wins_normbt"]].to_numpy().max()))
    axes.set_ylim(0, 1.45 * top)
    axes.set_ylabel("wins (pairs × seeds)")
    axes.legend(loc="upper right", fontsize=6)
    axes.set_title("Wins where the two disagree")


def draw_share(axes: Axes, table: pd.DataFrame) -> None:
    """Draw NormBT's share of the disagreements, pooled over seeds and one vote per pair."""
    colour = style.METHOD_COLOURS["normbt"]
    axes.axhline(0.5, color=style.GREY, linewidth=0.8, linestyle="--")
    if not (table["wins_bt"] + table["wins_normbt"]).any():
        style.no_data(axes, "no disagreement")
    points(axes, table, "share", -0.14, colour, colour, "pooled over seeds")
    points(axes, table, "vote", 0.14, style.BLACK, "white", "one vote a pair")
    axes.set_ylim(-0.06, 1.4)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0])
    axes.set_ylabel("share won by NormBT")
    axes.legend(loc="upper right", fontsize=6, ncols=1)
    axes.set_title("NormBT's share of wins")


def draw_difference(axes: Axes, table: pd.DataFrame) -> None:
    """Draw the accuracy difference NormBT − BT over all pairs of every bin."""
    axes.axhline(0, color=style.GREY, linewidth=0.8, linestyle="--")
    points(
        axes,
        table,
        "difference",
        0.0,
        style.METHOD_COLOURS["normbt"],
        style.METHOD_COLOURS["normbt"],
        "",
    )
    axes.set_ylabel("NormBT − BT (points)")
    axes.set_title("Accuracy difference, all pairs")


def points(
    axes: Axes, table: pd.DataFrame, name: str, shift: float, edge: str, fill: str, label: str
) -> None:
    """Draw `name` with its interval in every bin that has one."""
    style.interval_points(
        axes, table["bin"] + shift, table, name, fmt="o", markersize=4, color=edge,
        markerfacecolor=fill, elinewidth=1, capsize=2, label=label or None,
    )  # fmt: skip
