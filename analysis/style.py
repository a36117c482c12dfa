"""How every figure looks and how it is written: one style, one order of sections, identical bytes.

Colours are Okabe and Ito's (safe for the colour-blind). Methods and sections also differ in marker
or line, so that a grey print reads too. Nothing here goes through pyplot, so figures never leak
between callers and need no display.
"""

import io
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, ParamSpec

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text
from PIL import Image

from eval.methods import described
from rm.data.preferences import section_key
from rm.errors import InputError, visible
from rm.files import atomic_write_bytes

P = ParamSpec("P")

SECTIONS: Final = ("Chat", "Chat Hard", "Safety", "Reasoning")
MODELS: Final = ("untrained", "bt", "normbt")

BLACK: Final = "#000000"
GREY: Final = "#6e6e6e"
ORANGE: Final = "#E69F00"
SKY: Final = "#56B4E9"
GREEN: Final = "#009E73"
BLUE: Final = "#0072B2"
VERMILLION: Final = "#D55E00"
PURPLE: Final = "#CC79A7"
BROWN: Final = "#7F4F24"

SECTION_COLOURS: Final = {
    "Chat": SKY,
    "Chat Hard": ORANGE,
    "Safety": GREEN,
    "Reasoning": PURPLE,
}
SECTION_MARKERS: Final = {"Chat": "o", "Chat Hard": "s", "Safety": "^", "Reasoning": "D"}
SECTION_LINES: Final = {"Chat": "-", "Chat Hard": "--", "Safety": "-.", "Reasoning": ":"}
OTHER: Final = "#999999"
METHODS: Final = tuple(
    f"{base}{variant}"
    for variant in ("", "_margin", "_margin_out", "_label_smoothing")
    for base in ("bt", "normbt")
)
METHOD_COLOURS: Final = {
    "untrained": GREY,
    "bt": BLUE,
    "normbt": VERMILLION,
    "normbt_cap": ORANGE,
    "category_weights": GREEN,
    "normbt_margin": PURPLE,
    "normbt_margin_out": SKY,
    "normbt_label_smoothing": BROWN,
}
RIVALS: Final = (
    *("clip", "hinge", "focal", "similarity_margin", "normalised_difference"),
    *("constant_margin", "bsr"),
)
METHOD_MARKERS: Final = {
    **dict(zip(METHOD_COLOURS, "^soDvPX>", strict=True)),
    **dict(zip(RIVALS, "<ph*8H1", strict=True)),
}
METHOD_LINES: Final = {"bt": "--"}
"""A method's line where it is not solid."""
FORMULAS: Final = frozenset(
    {
        *(r"$\Vert h_w - h_l\Vert_2$", r"$\Vert\nabla_\theta L_{BT}\Vert_2$", r"$\tilde{w}$"),
        *(
            r"$\Vert p_w - p_l\Vert / \overline{\Vert p\Vert}$",
            r"$\Vert\nabla_\phi(r_w - r_l)\Vert_2$",
        ),
    }
)
"""The formulas that our figures' texts hold."""
SOFT: Final = "#444444"
TITLE_LINE: Final = 0.15
"""Inches of one line of a title."""
WIDTH: Final = 7.0
"""Inches: the text width of a two-column paper."""
DPI: Final = 200

STYLE: Final[dict[str, Any]] = {
    "font.family": "DejaVu Sans",  # shipped with matplotlib: the same glyphs on every machine
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "axes.linewidth": 0.7,
    "lines.linewidth": 1.2,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "normbt",
}


def styled(function: Callable[P, Figure]) -> Callable[P, Figure]:
    """Decorate a `draw`: it runs under our style alone, whatever the user's matplotlibrc.

    What the figure then says is taken literally (`literal_texts`).
    """

    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.style.context(["default", STYLE]):
            figure = function(*args, **kwargs)
        literal_texts(figure)
        return figure

    wrapper.__name__ = function.__name__
    wrapper.__doc__ = function.__doc__
    wrapper.__wrapped__ = function  # type: ignore[attr-defined]
    return wrapper


def literal_texts(figure: Figure) -> None:
    """Have every text of a figure drawn as it stands unless its formulas are our own (`FORMULAS`).

    Names from other people's files (sections, methods, data sets) may hold `$`, which matplotlib
    reads as a formula and stops at if it is none. Control characters in them, but line breaks, are
    spelt.
    """
    for text in figure.findobj(Text):
        words = text.get_text()
        if not set(re.findall(r"\$[^$]*\$", words)) <= FORMULAS:
            text.set_parse_math(False)
        text.set_text("\n".join(map(visible, words.split("\n"))))


def new_figure(height: float) -> Figure:
    """Return an empty figure of `height` inches whose layout makes room for all text."""
    return Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(h_pad=0.06, w_pad=0.06))


def add_text(
    figure: Figure, title: str, caption: str, note: str = "", legend: Iterable[Axes] = ()
) -> None:
    """Put the title above and the profile's facts below; keep the caption for the page.

    `caption` says what is drawn (n, seeds, kind of interval). It is not in the picture: pages print
    what `figure.get_label()` returns under it. `note` says which model and data the numbers belong
    to, so that a picture taken out of its page still tells. What the panels `legend` label is named
    in a strip between title and panels, where it covers nothing.
    """
    inches = float(figure.get_size_inches()[0])
    shown = wrap(title, int(inches * 13.5))
    figure.suptitle(shown, x=0.01, ha="left", fontsize=9, weight="bold")
    figure.supxlabel(wrap(note, int(inches * 21.5)), x=0.01, ha="left", fontsize=6.5, color=SOFT)
    figure.set_label(visible(caption))
    add_legend(figure, legend, below=0.08 + TITLE_LINE * (1 + shown.count("\n")))


def add_legend(figure: Figure, panels: Iterable[Axes], below: float) -> None:
    """Name what `panels` label, each name once, in rows that start `below` inches from the top."""
    labelled = [panel.get_legend_handles_labels() for panel in panels]
    named = {name: handle for pair in labelled for handle, name in zip(*pair, strict=True)}
    engine = figure.get_layout_engine()
    if not named or not isinstance(engine, ConstrainedLayoutEngine):
        return
    width, height = map(float, figure.get_size_inches())
    entries = [0.42 + 0.055 * len(name) for name in named]  # inches, a little more than needed
    fits = sum(entries) < width - 0.1
    columns = len(named) if fits else max(1, int((width - 0.1) / max(entries)))
    room = 0.05 + 0.15 * -(-len(named) // columns)
    engine.set(rect=(0, 0, 1, 1 - room / height))
    figure.legend(
        [*named.values()], [*named], loc="upper left", ncols=columns, borderaxespad=0,
        bbox_to_anchor=(0.01, 1 - below / height), columnspacing=1.2, handletextpad=0.5,
    )  # fmt: skip


def wrap(text: str, width: int) -> str:
    """Return `text` broken into lines of at most `width` characters."""
    return "\n".join(textwrap.wrap(text, width)) if text else ""


def section_label(section: str) -> str:
    """Return a section's display name: "chat_hard" and "Chat Hard" both give "Chat Hard"."""
    known = {section_key(name): name for name in SECTIONS}
    return known.get(section_key(section), section)


def ordered(values: Iterable[str], order: Sequence[str]) -> list[str]:
    """Return the distinct `values`: those in `order` first, in that order, then the rest sorted."""
    present = set(values)
    return [value for value in order if value in present] + sorted(present - set(order))


def method_label(method: str) -> str:
    """Return a method's name as its loss file has it: "normbt_margin" gives "NormBT + margin"."""
    return described(method).label


def model_label(method: str) -> str:
    """Return the name of a model's state: "untrained backbone", "after BT training"."""
    return (
        "untrained backbone" if method == "untrained" else f"after {method_label(method)} training"
    )


def plural(count: int, noun: str) -> str:
    """Return "1 seed", "3 seeds", "1,200 pairs"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def plural_range(counts: Sequence[int], noun: str) -> str:
    """Return "3 seeds" where all counts are one, "2 to 3 seeds" where they differ."""
    least, most = min(counts), max(counts)
    return plural(most, noun) if least == most else f"{least:,} to {plural(most, noun)}"


def short(value: float, digits: int = 3) -> str:
    """Return a number in `digits` significant digits, without exponents for ordinary sizes."""
    if not np.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e4:
        places = max(0, digits - 1 - int(np.floor(np.log10(abs(value)))))
        return f"{value:.{places}f}".replace("-", "−")
    return f"{value:.{digits - 1}e}".replace("-", "−")


def signed(value: float, digits: int = 1) -> str:
    """Return "+4.2", "−1.3" or "0.0" with `digits` decimals, "–" where unknown."""
    if not np.isfinite(value):
        return "–"
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text if float(f"{value:.{digits}f}") else text[1:]


def interval_text(low: float, high: float, digits: int = 2) -> str:
    """Return "[0.12, 0.45]", each end in `digits` significant digits."""
    return f"[{short(low, digits)}, {short(high, digits)}]"


def section_colour(section: str) -> str:
    """Return a section's colour; one for all that are not the paper's."""
    return SECTION_COLOURS.get(section, OTHER)


def method_look(method: str) -> dict[str, Any]:
    """Return a method's colour and marker, the same in every figure."""
    return {
        "color": METHOD_COLOURS.get(method, OTHER),
        "marker": METHOD_MARKERS.get(method, "d"),
    }


def scatter_sections(
    axes: Axes, rows: pd.DataFrame, x: str, y: str, size: float = 6, alpha: float = 0.55
) -> None:
    """Draw column `y` against `x`, a point per row, coloured, marked and labelled by section."""
    for section in ordered(rows["section"], SECTIONS):
        part = rows[rows["section"] == section]
        look: dict[str, Any] = {
            "color": section_colour(section),
            "marker": SECTION_MARKERS.get(section, "v"),
        }
        # Thousands of points as a picture inside the vector figure.
        axes.scatter(
            part[x], part[y], s=size, alpha=alpha, linewidths=0, rasterized=len(rows) > 500, **look
        )
        axes.scatter([], [], s=22, linewidths=0, label=section, **look)  # large, for the legend


def interval_points(
    axes: Axes,
    places: pd.Series | Sequence[float] | np.ndarray,
    rows: pd.DataFrame,
    name: str,
    *,
    sideways: bool = False,
    **look: Any,
) -> None:
    """Draw the column `name` with bars from `name`_low to `name`_high, where it is known.

    `places` (rows,) lie on the x axis, with `sideways` on the y axis; `look` goes to `errorbar`.
    """
    known = rows[name].notna().to_numpy()
    centre, low, high = (rows[name + e].to_numpy(float)[known] for e in ("", "_low", "_high"))
    spans = np.clip(np.stack([centre - low, high - centre]), 0, None)
    at = np.asarray(places)[known]
    if sideways:
        axes.errorbar(centre, at, xerr=spans, **look)
    else:
        axes.errorbar(at, centre, yerr=spans, **look)


def band(axes: Axes, x: Any, low: Any, high: Any, colour: str, alpha: float = 0.15) -> None:
    """Shade the range from `low` to `high` over `x`, columns of numbers of one length."""
    at, under, above = (np.asarray(values, float) for values in (x, low, high))
    axes.fill_between(at, under, above, color=colour, alpha=alpha, linewidth=0)


def no_data(axes: Axes, why: str) -> None:
    """Write `why` in the middle of a panel that has nothing to show."""
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", color=GREY)


def write_figure(figure: Figure, stem: Path) -> tuple[Path, Path]:
    """Write `stem`.png (200 dpi) and `stem`.svg atomically and return their paths.

    The same figure gives the same bytes every time: no dates, no versions, fixed identifiers, text
    as paths, and the layout computed once for both formats.

    Raises InputError: the folder of `stem` cannot be made.
    """
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the figures' folder {stem.parent}: {error}") from error
    freeze_layout(figure)
    paths = (stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.svg"))
    for path in paths:
        atomic_write_bytes(path, figure_bytes(figure, path.suffix[1:]))
    return paths


def freeze_layout(figure: Figure) -> None:
    """Lay the figure out once and keep that: each draw would otherwise move it by a fraction.

    No engine is left, not even matplotlib's "none", for which each format would be drawn twice.
    """
    with matplotlib.style.context(["default", STYLE]):
        figure.set_dpi(DPI)
        if (engine := figure.get_layout_engine()) is not None:
            engine.execute(figure)
        figure.set_layout_engine(None)


def figure_bytes(figure: Figure, kind: str, dpi: int = DPI) -> bytes:
    """Return the figure as "png" or "svg", free of anything that differs between two runs."""
    metadata = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}[kind]
    buffer = io.BytesIO()
    with matplotlib.style.context(["default", STYLE]):
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    return buffer.getvalue() if kind == "svg" else with_palette(buffer)


def with_palette(png: io.BytesIO) -> bytes:
    """Return a picture with at most 256 colours: a third of the size, and it looks the same."""
    small = io.BytesIO()
    with Image.open(png) as picture:
        colours = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        colours.save(small, "PNG", optimize=True, dpi=picture.info["dpi"])
    return small.getvalue()
