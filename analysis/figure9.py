"""Figure 9: gradient direction: how per-pair gradients align, within and across categories.

Cosines of the gradients of every two pairs, and of each pair's gradient with the sum of all others
(the batch's), against distance: a close pair's update may be small and also point elsewhere.
"""

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import gradients, style
from analysis.relation import relation
from analysis.style import interval_text, model_label, ordered, plural, short, signed
from analysis.tables import one_row_each, read_tidy, require
from eval.bootstrap import bounds, row_weights
from rm.errors import InputError

KEYS: Final = ["method", "seed"]
ANGLES: Final = [*KEYS, "pair_a", "pair_b", "cosine", "error"]
PAIRS: Final = [*gradients.KEYS, "section", "distance", "error", "gradient_distance"]
COLUMNS: Final = [
    *(*KEYS, "pair_a", "pair_b", "cosine", "projection_error"),
    *(f"{name}_{side}" for side in "ab" for name in ("section", "distance", "norm")),
]


def collect(data: Path) -> pd.DataFrame:
    """Return one row per model, seed and two pairs: `data`/directions.parquet and gradients.csv.

    Columns: method, seed, pair_a, pair_b, cosine (of ∇L_BT of the two), projection_error (standard
    deviation bound of a cosine's error), then of each side (_a, _b) section, distance and norm
    (‖∇L_BT‖, nats / parameter unit).

    Raises InputError: a file is missing, empty or lacks a column, repeats a row, or the two files
    hold different pairs.
    """
    path = data / "directions.parquet"
    angles = one_row_each(read_tidy(path, ANGLES), [*ANGLES[:4]], str(path))
    pairs = gradients.read(data, PAIRS)
    facts = pairs.assign(norm=pairs["error"] * pairs["gradient_distance"])
    facts = facts[[*gradients.KEYS, "section", "distance", "norm"]]
    angles = angles.rename(columns={"error": "projection_error"})
    for side in "ab":
        named = facts.rename(
            columns={name: f"{name}_{side}" for name in ("section", "distance", "norm")}
            | {"pair_id": f"pair_{side}"}
        )
        angles = angles.merge(named, on=[*KEYS, f"pair_{side}"], how="left")
    if angles[["norm_a", "norm_b"]].isna().to_numpy().any():
        raise InputError(f"{path} and gradients.csv hold different pairs: write both again")
    return angles[COLUMNS]


def square(frame: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """Return one model and seed's pairs (pair_id, section, distance, norm) and their cosine matrix.

    The matrix is (pairs, pairs), symmetric, 1 on the diagonal; NaN where the frame has no row.
    """
    sides = [
        frame[[f"{name}_{side}" for name in ("pair", "section", "distance", "norm")]].set_axis(
            ["pair_id", "section", "distance", "norm"], axis=1
        )
        for side in "ab"
    ]
    pairs = pd.concat(sides).drop_duplicates("pair_id").sort_values("pair_id", ignore_index=True)
    places = {name: index for index, name in enumerate(pairs["pair_id"])}
    table = np.full((len(pairs), len(pairs)), np.nan)
    first, second = (frame[f"pair_{side}"].map(places).to_numpy() for side in "ab")
    table[first, second] = table[second, first] = frame["cosine"].to_numpy()
    np.fill_diagonal(table, 1.0)
    return pairs, table


def by_category(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the mean cosine of every two categories, averaged over seeds.

    Columns: method, section_a, section_b (both orders), cosine, within (same category). A pair is
    not compared with itself.
    """
    flipped = frame.rename(columns={"section_a": "section_b", "section_b": "section_a"})
    both = pd.concat([frame, flipped[flipped["section_a"] != flipped["section_b"]]])
    groups = both.groupby(["method", "section_a", "section_b", "seed"], sort=True)["cosine"].mean()
    means = groups.groupby(["method", "section_a", "section_b"]).mean().reset_index()
    return means.assign(within=means["section_a"] == means["section_b"])


def alignment(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the cosine of each pair's gradient with the sum of all other pairs' gradients.

    Columns: method, seed, pair_id, section, distance, cosine (NaN where the others sum to zero).
    From g_i · Σ_j g_j = Σ_j n_i n_j c_ij with the norms n and cosines c of the BT gradients.
    """
    rows = []
    for _, part in frame.groupby(KEYS, sort=True):
        pairs, table = square(part)
        norms = pairs["norm"].to_numpy()
        gram = np.nan_to_num(table) * np.outer(norms, norms)
        with_others = gram.sum(axis=1) - norms**2
        others = np.sqrt(np.clip(gram.sum() - 2 * gram.sum(axis=1) + norms**2, 0, None))
        with np.errstate(invalid="ignore", divide="ignore"):
            cosine = np.clip(with_others / (norms * others), -1, 1)
        method, seed = part["method"].iloc[0], part["seed"].iloc[0]
        rows.append(pairs.assign(method=method, seed=seed, cosine=cosine))
    found = pd.concat(rows, ignore_index=True)
    return found[[*KEYS, "pair_id", "section", "distance", "cosine"]]


def difference(frame: pd.DataFrame, resamples: int = 500, seed: int = 0) -> dict[str, float]:
    """Return mean cosine within minus across categories of one model, with its 95% interval.

    Keys: within, across, difference, difference_low, difference_high. Pairs are redrawn (a pair
    brings its whole row and column along, and two copies of one pair are not compared); seeds are
    averaged. NaN with one category.
    """
    draws, points = [], []
    for _, part in frame.groupby("seed", sort=True):
        pairs, table = square(part)
        codes = pd.factorize(pairs["section"])[0]
        same = codes[:, None] == codes[None, :]
        known = np.isfinite(table) & ~np.eye(len(pairs), dtype=bool)
        weights = row_weights(pairs["pair_id"].to_numpy(), resamples, seed)
        means = [weighted_mean(weights, table, known & chosen) for chosen in (same, ~same)]
        points.append([means[0][0], means[1][0]])
        draws.append(means[0][1:] - means[1][1:])
    within, across = np.mean(points, axis=0)
    return {
        "within": float(within),
        "across": float(across),
        "difference": float(within - across),
        **bounds("difference", np.mean(draws, axis=0)),
    }


def weighted_mean(weights: np.ndarray, table: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return Σ w_i w_j table_ij / Σ w_i w_j over the masked entries, for each row of `weights`."""
    values = np.where(mask, np.nan_to_num(table), 0.0)
    over = np.einsum("di,di->d", weights @ values, weights)
    under = np.einsum("di,di->d", weights @ mask.astype(float), weights)
    with np.errstate(invalid="ignore", divide="ignore"):
        return over / under


def verdict(found: dict[str, dict[str, float]]) -> str:
    """Return within against across categories, of BT's model or the first there is."""
    method = "bt" if "bt" in found else next(iter(found))
    row, model = found[method], model_label(method)
    within, across = (signed(row[name], 2) for name in ("within", "across"))
    if across == "–":
        return f"Mean gradient cosine, {model}: {within}; one section only"
    return f"Mean gradient cosine {model}: {within} within sections, {across} across"


def gap(row: dict[str, float]) -> str:
    """Return within minus across with its interval, for a panel's title."""
    if not np.isfinite(row["difference"]):
        return "one section only"
    names = ("difference", "difference_low", "difference_high")
    value, low, high = (signed(row[name], 2) for name in names)
    return f"within − across {value} [{low}, {high}]"


@style.styled
def draw(frame: pd.DataFrame, note: str = "") -> Figure:
    """Return the figure: mean cosines by category above, alignment with the batch below.

    One column per model of `frame`, which is what `collect` returns.

    Raises InputError: the frame has no rows or lacks a column.
    """
    require(frame, COLUMNS, "figure 9's data")
    table, aligned = by_category(frame), alignment(frame)
    models = ordered(frame["method"], style.MODELS)
    found = {method: difference(frame[frame["method"] == method]) for method in models}
    top = float(np.nanmax(np.abs(table["cosine"].to_numpy()))) or 1.0
    figure = style.new_figure(height=5.2)
    grid = figure.subplots(2, len(models), squeeze=False, height_ratios=[1.1, 1])
    for column, method in enumerate(models):
        matrix(grid[0, column], table[table["method"] == method], top, labelled=column == 0)
        grid[0, column].set_title(f"{model_label(method)}\n{gap(found[method])}", fontsize=7)
        scatter(grid[1, column], aligned[aligned["method"] == method])
    grid[1, 0].set_ylabel("cosine with the sum of\nall other pairs' gradients")
    style.add_text(figure, verdict(found), caption(frame), note, legend=grid[1])
    return figure


def caption(frame: pd.DataFrame) -> str:
    """Return n, seeds, what a cosine is and how exact it is."""
    counts = len(set(frame["pair_a"]) | set(frame["pair_b"]))
    bound = frame["projection_error"].max()
    exact = f", by random projection (error ≤ {bound:.4f})" if bound else ""
    return (
        f"{plural(counts, 'pair')}, {plural(frame['seed'].nunique(), 'seed')}. Above: mean cosine "
        f"of two pairs' BT gradients{exact}. Below: cosine of a pair's gradient with the sum of "
        "the others'; r: Pearson. Brackets: 95% bootstrap over pairs."
    )


def matrix(axes: Axes, rows: pd.DataFrame, top: float, labelled: bool) -> None:
    """Draw one model's mean cosines of every two categories as a coloured table."""
    sections = ordered(rows["section_a"].tolist() + rows["section_b"].tolist(), style.SECTIONS)
    table = rows.pivot(index="section_a", columns="section_b", values="cosine")
    values = table.reindex(index=sections, columns=sections).to_numpy(float)
    axes.imshow(values, cmap="PuOr_r", vmin=-top, vmax=top, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        dark = np.isfinite(value) and abs(value) > 0.6 * top
        colour = "white" if dark else style.BLACK
        axes.text(
            column, row, signed(value, 2), ha="center", va="center", fontsize=6.5, color=colour
        )
    names = [section.replace(" ", "\n") for section in sections]
    axes.set_xticks(range(len(sections)), names, fontsize=6)
    axes.set_yticks(range(len(sections)), names if labelled else [""] * len(names), fontsize=6)
    axes.grid(visible=False)


def scatter(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw one model's alignment with the batch against distance, with their correlation."""
    style.scatter_sections(axes, rows, "distance", "cosine", size=6, alpha=0.6)
    axes.axhline(0, color=style.GREY, linewidth=0.8, linestyle="--")
    axes.set_xlim(left=0)
    axes.set_xlabel("distance (activation units)")
    found = relation(rows, "distance", "cosine", resamples=500)
    span = interval_text(found["pearson_low"], found["pearson_high"])
    axes.set_title(f"r = {short(found['pearson'], 2)} {span}", fontsize=7)
