"""The jobs of a sweep as parallel coordinates: what was varied, and the validation accuracy.

One vertical axis per parameter and one line per job, coloured by its accuracy on held-out pairs.
"""

from pathlib import Path
from typing import Final

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style
from analysis.figure11 import LABELS, LOG_FROM
from analysis.style import method_label, plural
from analysis.tables import read_tidy, require
from rm.errors import InputError

RESULTS: Final = ["status", "seconds", "accuracy", "pairs"]
"""Columns of jobs.csv from which on a job's results stand; what is before them was varied."""
COLOURS: Final = matplotlib.colormaps["cividis"]
FAN: Final = 0.07
"""Lines that meet at one value leave it spread over this part of the axis, in order of accuracy."""
MOST_TICKS: Final = 8


def can_draw(frame: pd.DataFrame) -> bool:
    """Return whether two or more jobs have an accuracy and differ in something."""
    scored = frame[frame["accuracy"].notna()]
    return len(scored) > 1 and bool(varied(scored))


def varied(frame: pd.DataFrame) -> list[str]:
    """Return the columns, before the results, that take more than one value."""
    before = [str(name) for name in frame.columns[: list(frame.columns).index("status")]]
    return [name for name in before if frame[name].nunique() > 1]


def collect(data: Path) -> pd.DataFrame:
    """Return one row per job of `data`/jobs.csv, as scripts.jobs writes it.

    Columns: the overrides in which jobs differ, status, seconds, accuracy (percent; the file holds
    fractions; NaN without), pairs.

    Raises InputError: the file is missing or empty, lacks a column, or holds an accuracy that is no
    fraction.
    """
    path = data / "jobs.csv"
    frame = read_tidy(path, RESULTS)
    if not frame["accuracy"].dropna().between(0, 1).all():
        raise InputError(f"{path}: accuracies must be fractions from 0 to 1: write it again")
    names = frame.columns[: list(frame.columns).index("status")]
    return frame[[*names, *RESULTS]].assign(accuracy=100 * frame["accuracy"])


@style.styled
def draw(frame: pd.DataFrame, note: str = "") -> Figure:
    """Return the figure. `frame` is what `collect` returns.

    Raises InputError: fewer than two jobs have an accuracy, or they differ in nothing.
    """
    require(frame, RESULTS, "the sweep's jobs")
    if not can_draw(frame):
        raise InputError("the sweep has not two jobs that differ and have an accuracy: run more")
    scored = frame[frame["accuracy"].notna()].sort_values("accuracy", ignore_index=True)
    names = varied(scored)
    figure = style.new_figure(height=3.4)
    axes = figure.subplots()
    places = [draw_axis(axes, at, scored[name], name) for at, name in enumerate(names)]
    places.append(draw_axis(axes, len(names), scored["accuracy"], "validation accuracy (%)"))
    draw_lines(axes, np.stack(places), scored["accuracy"].to_numpy())
    axes.set_xlim(-0.15, len(names) + 0.25)
    axes.set_ylim(-0.08, 1.14)
    axes.set_axis_off()
    style.add_text(figure, verdict(scored, names), caption(frame, scored), note)
    return figure


def verdict(scored: pd.DataFrame, names: list[str]) -> str:
    """Return what the best job was, and how many share its accuracy."""
    best = scored[scored["accuracy"] == scored["accuracy"].max()]
    words = ", ".join(f"{label(name)} {value_label(name, best.iloc[-1][name])}" for name in names)
    equal = f" (and {len(best) - 1} more of the same accuracy)" if len(best) > 1 else ""
    return f"Best on validation: {words}: {best.iloc[-1]['accuracy']:.1f}%{equal}"


def caption(frame: pd.DataFrame, scored: pd.DataFrame) -> str:
    """Return what is counted, and what is not drawn."""
    left_out = frame[frame["accuracy"].isna()]["status"].value_counts()
    absent = ", ".join(f"{count} {status}" for status, count in left_out.items())
    smallest, largest = scored["pairs"].min(), scored["pairs"].max()
    pairs = plural(int(smallest), "pair") if smallest == largest else f"{smallest}–{largest} pairs"
    return (
        f"{plural(len(scored), 'job')}, a line each, from low (dark) to high (bright) accuracy on "
        f"{pairs} held out of the training data; the best is outlined. Lines that meet at a value "
        "are fanned out. The best of many is flattered by chance: score it on the test pairs."
        + (f" Not drawn, without an accuracy: {absent}." if absent else "")
    )


def draw_axis(axes: Axes, at: float, values: pd.Series, name: str) -> np.ndarray:
    """Draw one vertical axis with its ticks; return the values' places on it, from 0 to 1.

    Numbers are placed linearly, or logarithmically where they span decades; words evenly.
    """
    axes.plot([at, at], [-0.02, 1.02], color=style.GREY, linewidth=0.8, zorder=1)
    axes.text(at, 1.09, label(name), ha="center", va="bottom", fontsize=8, weight="bold")
    place, ticks = scale(values)
    for tick, where in ticks:
        axes.plot(
            [at - 0.012, at + 0.012], [where, where], color=style.GREY, linewidth=0.8, zorder=1
        )
        axes.text(
            at + 0.025, where, value_label(name, tick), va="center", fontsize=7, zorder=5,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6},
        )  # fmt: skip
    return place


def scale(values: pd.Series) -> tuple[np.ndarray, list[tuple[object, float]]]:
    """Return each value's place from 0 to 1, and (value, place) of the ticks."""
    numbers = pd.to_numeric(values, errors="coerce")
    if numbers.isna().any():
        words = sorted(set(values.astype(str)))
        places = dict(zip(words, np.linspace(0, 1, len(words)), strict=True))
        return values.astype(str).map(places).to_numpy(), list(places.items())
    own = np.unique(numbers)
    logarithmic = own[0] > 0 and own[-1] >= LOG_FROM * own[0]
    if len(own) > MOST_TICKS:
        spread = np.geomspace if logarithmic else np.linspace
        own = spread(own[0], own[-1], 5)
    low, high = float(numbers.min()), float(numbers.max())

    def place(number: np.ndarray) -> np.ndarray:
        ends = np.log([low, high]) if logarithmic else np.array([low, high])
        at = np.log(number) if logarithmic else number
        return (at - ends[0]) / (ends[1] - ends[0]) if high > low else np.full(len(number), 0.5)

    return place(numbers.to_numpy()), list(zip(own.tolist(), place(own).tolist(), strict=True))


def draw_lines(axes: Axes, places: np.ndarray, accuracy: np.ndarray) -> None:
    """Draw one line per job over places (axes, jobs), jobs in order of accuracy (percent)."""
    spread = np.ptp(accuracy)
    shades = (accuracy - accuracy.min()) / spread if spread > 0 else np.full(len(accuracy), 1.0)
    fan = FAN * (np.arange(len(accuracy)) / max(1, len(accuracy) - 1) - 0.5)
    met = [len(np.unique(one)) < len(one) for one in places[:-1]]
    moved = places + np.array([*met, False])[:, None] * fan
    steps = np.arange(len(places))
    for job, shade in enumerate(shades):
        best = job == len(shades) - 1
        if best:
            axes.plot(steps, moved[:, job], color=style.BLACK, linewidth=3.2, zorder=3)
        axes.plot(
            steps, moved[:, job], color=COLOURS(0.95 * shade), linewidth=1.9 if best else 1.2,
            marker="o", markersize=2.5, alpha=1.0 if best else 0.9, zorder=4 if best else 2,
        )  # fmt: skip


def label(name: str) -> str:
    """Return a parameter's printed name: "training.learning_rate" gives "learning rate"."""
    last = name.rpartition(".")[2]
    return {"loss": "method"}.get(last, LABELS.get(last, last.replace("_", " ")))


def value_label(name: str, value: object) -> str:
    """Return a value as printed: methods by their names, numbers in three digits."""
    if name == "loss":
        return method_label(str(value))
    return f"{value:.3g}".replace("-", "−") if isinstance(value, float) else str(value)
