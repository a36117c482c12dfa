"""Figure 1: two measured pairs, one close and one far apart, with distances and update sizes.

Both pairs have nearly the same prediction error, so what differs in their BT updates is not how
wrong the model is: the texts are shown beside the numbers.
"""

import textwrap
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from matplotlib import font_manager, ft2font
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import gradients, style
from analysis.gradients import KEYS, UPDATES
from analysis.style import method_label, model_label, ordered, plural, short
from analysis.tables import TEXTS, AbsentError, require, with_texts

MEASURES: Final = ["distance", "error", *UPDATES.values()]
COLUMNS: Final = [*KEYS, "section", *TEXTS, *MEASURES]
TAIL: Final = 0.25
"""The close pair comes from the closest quarter of the sample, the far one from the farthest."""
LIMITS: Final = {"prompt": 110, "chosen": 160, "rejected": 160}
"""Characters of each text that are shown."""
WRAP: Final = 56
LINE: Final = 0.124
"""Inches of one line of text."""


def collect(data: Path) -> pd.DataFrame:
    """Return one row per model, seed and pair of `data`/gradients.csv, with its texts.

    Columns: method, seed, pair_id, section, prompt, chosen, rejected, distance, error (|σ(d) − 1|),
    update_bt (‖∇_θ L_BT‖, nats / parameter unit) and update_normbt (the same times the weight w̃).

    Raises AbsentError: the texts were left out; InputError: gradients.csv or pairs.parquet is
    missing, empty or lacks a column, or a pair has no text.
    """
    frame = gradients.read(data, [*KEYS, "section", *MEASURES])
    return with_texts(frame, data, TEXTS)[COLUMNS]


def choose(frame: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Return the close and the far pair of one model's rows: the two of most equal error.

    The close one is of the closest quarter by distance, the far one of the farthest; of all such
    combinations, the one whose errors |σ(d) − 1| are nearest to each other, both away from 0 where
    that is possible (errors of at least the median count first).

    Raises InputError: fewer than two pairs, or all at one distance.
    """
    if frame["distance"].nunique() < 2:
        raise AbsentError("figure 1 needs two pairs of unlike distance: raise gradient_pairs")
    rows = frame.sort_values(["distance", "pair_id"]).reset_index(drop=True)
    number = max(1, int(TAIL * len(rows)))
    close, far = wrong_enough(rows.head(number)), wrong_enough(rows.tail(number))
    apart = np.abs(close["error"].to_numpy()[:, None] - far["error"].to_numpy()[None, :])
    first, second = np.unravel_index(int(apart.argmin()), apart.shape)
    return close.iloc[int(first)], far.iloc[int(second)]


def wrong_enough(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the half of `rows` with the larger errors: pairs that training still moves."""
    return rows[rows["error"] >= rows["error"].median()]


def pick_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the model to show: the untrained one if there, one seed only."""
    method = ordered(frame["method"], style.MODELS)[0]
    rows = frame[frame["method"] == method]
    return rows[rows["seed"] == rows["seed"].min()]


def verdict(close: pd.Series, far: pd.Series) -> str:
    """Return how many times the close pair's BT update the far one's is."""
    ratio = far["update_bt"] / close["update_bt"] if close["update_bt"] else np.inf
    return f"At equal error, the far pair gets {short(ratio, 2)} times the BT update"


@style.styled
def draw(frame: pd.DataFrame, note: str = "") -> Figure:
    """Return the figure: the close pair's texts left, the far pair's right, their numbers below.

    `frame` is what `collect` returns.

    Raises InputError: the frame has no rows, lacks a column, or no two pairs differ in distance.
    """
    require(frame, COLUMNS, "figure 1's data")
    rows = pick_rows(frame)
    close, far = choose(rows)
    number = max(line_count(pair) for pair in (close, far))
    figure = style.new_figure(height=2.0 + LINE * number)
    grid = figure.subplots(2, 2, height_ratios=[LINE * number, 1.1])
    largest = 1.25 * max(pair[name] for pair in (close, far) for name in UPDATES.values())
    tops = {"distance": 1.25 * max(close["distance"], far["distance"])}
    tops |= dict.fromkeys(UPDATES.values(), largest)
    for column, (name, pair) in enumerate((("Close", close), ("Far", far))):
        write_texts(grid[0, column], name, pair, number)
        bars(grid[1, column], pair, tops, labelled=column == 0)
    caption = (
        f"Two of {plural(len(rows), 'pair')}, {model_label(str(rows['method'].iloc[0]))}: one of "
        "the closest quarter, one of the farthest, at nearly equal error. Update: ‖∇L‖ (nats / "
        "parameter unit), for NormBT × w̃; one scale. Distance: ‖h_w − h_l‖. ⏎: line break."
    )
    style.add_text(figure, verdict(close, far), caption, note)
    return figure


def line_count(pair: pd.Series) -> int:
    """Return how many lines a pair's texts take, with a heading and half a line before each."""
    return sum(len(shortened(pair[name], LIMITS[name])) + 2 for name in TEXTS)


def write_texts(axes: Axes, name: str, pair: pd.Series, number: int) -> None:
    """Write one pair's texts into a panel of `number` lines, shortened and without any mark-up."""
    axes.set_axis_off()
    facts = f"{pair['section']} · prediction error {short(pair['error'], 2)}"
    axes.set_title(f"{name} pair · {facts}", loc="left")
    place = 0
    for column in TEXTS:
        colour = style.GREY if column == "prompt" else style.BLACK
        lines = shortened(pair[column], LIMITS[column])
        for text, weight in ((column.capitalize(), "bold"), ("\n".join(lines), "normal")):
            axes.text(
                *(0.0, 1 - place / number, text),
                transform=axes.transAxes,
                va="top",
                fontsize=6.5,
                color=colour,
                weight=weight,
                linespacing=1.25,
                parse_math=False,
            )
            place += text.count("\n") + 1
        place += 1


def shortened(text: str, limit: int) -> list[str]:
    """Return at most `limit` characters of `text` as wrapped lines, line breaks shown as ⏎."""
    parts = (part.strip() for part in printable(text).splitlines())
    flat = " ⏎ ".join(part for part in parts if part)
    cut = flat if len(flat) <= limit else flat[: limit - 1].rstrip() + "…"
    return textwrap.wrap(cut, WRAP) or ["(empty)"]


def printable(text: str) -> str:
    """Return `text` with every character that the figures' font lacks shown as □."""
    known = font_characters()
    return "".join(c if ord(c) in known or c in "\n\t " else "□" for c in text)


def font_characters() -> set[int]:
    """Return the code points that DejaVu Sans, the figures' font, can show."""
    return set(ft2font.FT2Font(font_manager.findfont("DejaVu Sans")).get_charmap())


def bars(axes: Axes, pair: pd.Series, tops: dict[str, float], labelled: bool) -> None:
    """Draw one pair's distance and two update sizes as bars, each on the scale that `tops` ends."""
    colours = {"distance": style.GREY}
    colours |= {name: style.METHOD_COLOURS[method] for method, name in UPDATES.items()}
    labels = ["distance", *(f"{method_label(method)} update" for method in UPDATES)]
    for place, (name, top) in enumerate(tops.items()):
        share = pair[name] / top if top else 0.0
        axes.barh(-place, share, height=0.62, color=colours[name])
        axes.annotate(
            short(pair[name]), (share, -place), (3, 0), textcoords="offset points", va="center",
            fontsize=7,
        )  # fmt: skip
    axes.set_yticks([0, -1, -2], labels if labelled else [""] * 3)
    axes.set_xlim(0, 1)
    axes.set_xticks([])
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False)
