"""Figure 5: Best-of-N, the gold score of the response that the proxy picks, against KL.

One row per gold; one panel per BT variant, with and without NormBT, between the oracle (picked by
the gold itself) and random picking; in the last panel what NormBT's weight adds to each variant.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style
from analysis.style import method_label, ordered, plural
from analysis.tables import one_row_each, read_tidy, require, write_table
from eval.best_of_n.curves import ORACLE, POOLED, RANDOM
from eval.best_of_n.selection import kl as kl_of
from eval.methods import base_of
from rm.errors import InputError
from rm.files import read_json

KEYS: Final = ["gold_kind", "method", "seed", "n"]
COLUMNS: Final = [
    *(*KEYS, "kl", "proxy", "gold", "gold_low", "gold_high"),
    *("gain", "gain_low", "gain_high", "prompts", "samples", "seeds"),
]
SHOWN: Final = (4, 16, 64, 405)
GOLDS: Final = {"verifier": "verified by code", "reward_model": "gold reward model"}
GAIN_COLOURS: Final = {
    "bt": style.BLUE,
    "bt_margin": style.PURPLE,
    "bt_label_smoothing": style.GREEN,
}
GAIN_LINES: Final = {"bt": "-", "bt_margin": "--", "bt_label_smoothing": "-."}
SMALL: Final[dict[str, Any]] = {"fontsize": 5, "handlelength": 1.5, "labelspacing": 0.25}
"""A legend that fits into a fifth of the page's width: four losses stand beside their gains."""


def collect(data: Path) -> pd.DataFrame:
    """Return the pooled rows of `data`/best_of_n.csv: one per gold, method and n.

    Columns: gold_kind, method, seed ("all"), n, kl (nats, ln n − (n − 1)/n), proxy and gold (of the
    picked response, in the policy's standard deviations above its mean), gold_low and gold_high
    (95%, prompts and seeds), gain with gain_low and gain_high (NormBT's gold minus its base's,
    paired), prompts, samples, seeds; and quality, a sentence on the gold (`quality_of`).

    Raises InputError: the file is missing, empty, lacks a column, repeats an n within a run, or
    holds a KL that is not ln n − (n − 1)/n.
    """
    path = data / "best_of_n.csv"
    frame = one_row_each(read_tidy(path, COLUMNS), KEYS, str(path))
    if not np.allclose(frame["kl"], kl_of(frame["n"].to_numpy()), atol=1e-3):
        raise InputError(f"{path}: kl is not ln n − (n − 1)/n (nats) in every row: write it again")
    pooled = frame[frame["seed"].astype(str) == POOLED]
    pooled = require(pooled, COLUMNS, f"{path} (rows with seed = all)").sort_values(KEYS)
    noted = path.with_suffix(".json")
    facts = read_json(noted) if noted.is_file() else {}
    return pooled.assign(quality=[quality_of(str(kind), facts) for kind in pooled["gold_kind"]])


def quality_of(kind: str, facts: dict[str, Any]) -> str:
    """Return what a reader must know of a gold or its policy, from best_of_n.json; "" for nothing.

    Where the policy is synthetic: what it is. Of a gold reward model: how it agrees with the labels
    that it replaced, for one that was trained here is no better than its training.
    """
    policy = facts.get("bon", {}).get("policy", {})
    if policy.get("engine") == "synthetic":
        return (
            "Candidates are independent draws from a synthetic policy, which is right with "
            f"probability {policy['right']:g} and otherwise makes one fault; some repeat, so KL is "
            "an upper bound."
        )
    relabelled = facts.get("golds", {}).get(kind, {}).get("relabelled")
    if kind == "verifier" or relabelled is None:
        return ""
    given = facts["bon"]["gold"]["checkpoint"]
    made = "trained here" if given is None else Path(given).name
    return (
        f"The {gold_label(kind)} ({made}) flips {relabelled['disagreement']:.0%} of the labels of "
        f"the proxies' {plural(relabelled['pairs'], 'training pair')}; another gold may judge "
        "otherwise, which no interval covers."
    )


def methods_of(frame: pd.DataFrame) -> list[str]:
    """Return the trained methods of a frame, in the paper's order."""
    return ordered(set(frame["method"]) - {ORACLE, RANDOM}, style.METHODS)


def twins(methods: list[str]) -> list[list[str]]:
    """Return the panels: every base loss with its NormBT twin, then what has no twin."""
    bases = [method for method in methods if not method.startswith("norm")]
    ours = [method for method in methods if method.startswith("norm")]
    twin = {base_of(method, methods): method for method in reversed(ours)}  # of several, the first
    panels = [[base, twin[base]] if base in twin else [base] for base in bases]
    alone = [method for method in methods if not any(method in panel for panel in panels)]
    return panels + [[method] for method in alone]


def parts(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the display name and the rows of every gold."""
    for kind in ordered(frame["gold_kind"], list(GOLDS)):
        yield gold_label(kind), frame[frame["gold_kind"] == kind]


def gold_label(kind: str) -> str:
    """Return a gold's display name."""
    return GOLDS.get(kind, kind)


def verdict(frame: pd.DataFrame) -> str:
    """Return for how many variants NormBT's weight raises the gold score at the largest n."""
    last = frame[(frame["n"] == frame["samples"]) & frame["gain"].notna()]
    if last.empty:
        return "Best-of-N: no NormBT method beside its base"
    up, down = (last["gain_low"] > 0).sum(), (last["gain_high"] < 0).sum()
    unclear = len(last) - up - down
    n = "/".join(str(number) for number in sorted(set(last["n"])))
    return (
        f"Best-of-N at n = {n}: NormBT's weight raises the gold score in {up} of "
        f"{plural(len(last), 'comparison')} and lowers it in {down}; "
        f"{plural(unclear, 'interval')} include{'s' if unclear == 1 else ''} zero"
    )


@style.styled
def draw(frame: pd.DataFrame, note: str = "") -> Figure:
    """Return the figure: one row of panels per gold; `frame` is what `collect` returns.

    Raises InputError: the frame has no rows or lacks a column.
    """
    require(frame, COLUMNS, "figure 5's data")
    rows, panels = list(parts(frame)), twins(methods_of(frame))
    figure = style.new_figure(height=1.3 + 2.1 * len(rows))
    grid = figure.subplots(len(rows), len(panels) + 1, squeeze=False, sharex="row")
    for axes_row, (name, part) in zip(grid, rows, strict=True):
        for axes, methods in zip(axes_row, panels, strict=False):
            draw_panel(axes, part, methods)
            axes.sharey(axes_row[0])
        make_room(axes_row[0], above=0.3)
        axes_row[0].legend(loc="upper left", **SMALL)
        axes_row[0].set_ylabel(f"gold: {name}\n(policy's s.d. above its mean)")
        draw_gains(axes_row[-1], part)
        for axes in axes_row:
            mark_n(axes, int(part["samples"].max()))
    for axes in grid[-1]:
        axes.set_xlabel("KL (nats)")
    style.add_text(figure, verdict(frame), caption(frame), note)
    return figure


def caption(frame: pd.DataFrame) -> str:
    """Return what is counted and how its intervals are made."""
    most = frame.iloc[int(frame["seeds"].to_numpy().argmax())]
    return (
        f"{plural(int(most['prompts']), 'prompt')}, N = {int(most['samples'])} samples each, "
        f"{plural(int(most['seeds']), 'seed')}. Lines: unbiased estimate of the gold score of the "
        "best of n by the proxy, against KL = ln n − (n − 1)/n; dotted lines mark n. Bands: 95% "
        "bootstrap over prompts and seeds. Oracle: picked by the gold itself. Right: gold of "
        "NormBT minus gold of its base, same prompts and seeds (paired bootstrap)."
        f"{qualities(frame)}"
    )


def qualities(frame: pd.DataFrame) -> str:
    """Return the sentences on the golds of `collect`'s rows, each after a space."""
    return "".join(f" {words}" for words in dict.fromkeys(frame["quality"]) if words)


def draw_panel(axes: Axes, part: pd.DataFrame, methods: list[str]) -> None:
    """Draw one variant's gold curves with their bands, and the oracle and random lines."""
    for name, line in ((ORACLE, "-"), (RANDOM, "--")):
        rows = part[part["method"] == name].sort_values("kl")
        axes.plot(
            rows["kl"], rows["gold"], color=style.GREY, linestyle=line, linewidth=0.9, label=name
        )
    for method in methods:
        ours = method.startswith("norm")
        label = "with NormBT" if ours else "base"
        curve(
            axes,
            part[part["method"] == method],
            "gold",
            style.VERMILLION if ours else style.BLUE,
            label,
        )
    axes.set_title(method_label(methods[0]), loc="left", fontsize=7)


def draw_gains(axes: Axes, part: pd.DataFrame) -> None:
    """Draw the paired gain of every NormBT method over its base."""
    axes.axhline(0, color=style.BLACK, linewidth=0.7)
    axes.set_title("NormBT − base", loc="left", fontsize=7)
    gains = part[part["gain"].notna()]
    if gains.empty:
        style.no_data(axes, "no pair of methods")
        return
    for method in methods_of(gains):
        base = method.removeprefix("norm")
        label = "BT" if base == "bt" else method_label(method).removeprefix("NormBT ")
        rows, colour = gains[gains["method"] == method], GAIN_COLOURS.get(base, style.OTHER)
        curve(axes, rows, "gain", colour, label, GAIN_LINES.get(base, ":"))
    make_room(axes, below=0.35)
    axes.legend(loc="lower left", **SMALL)


def curve(
    axes: Axes, rows: pd.DataFrame, name: str, colour: str, label: str, line: str = "-"
) -> None:
    """Draw the column `name` against KL with its interval."""
    rows = rows.sort_values("kl")
    style.band(axes, rows["kl"], rows[f"{name}_low"], rows[f"{name}_high"], colour)
    axes.plot(rows["kl"], rows[name], color=colour, linestyle=line, label=label)


def make_room(axes: Axes, below: float = 0.0, above: float = 0.0) -> None:
    """Leave room for a legend below or above the curves, as a share of their height."""
    low, high = axes.get_ylim()
    axes.set_ylim(low - below * (high - low), high + above * (high - low))


def mark_n(axes: Axes, samples: int) -> None:
    """Mark n = 4, 16, … on the KL axis."""
    axes.grid(axis="x", visible=False)
    for n in [n for n in SHOWN if n <= samples]:
        kl = float(kl_of(n))
        axes.axvline(kl, color="#c8c8c8", linestyle=":", linewidth=0.6, zorder=0)
        axes.annotate(
            f"{n}",
            (kl, 0.01),
            xycoords=("data", "axes fraction"),
            fontsize=5,
            color=style.GREY,
            ha="right",
        )


def write(data: Path, folder: Path, note: str) -> list[Path]:
    """Write best_of_n, best_of_n_gains and best_of_n_overoptimisation as CSV, Markdown and LaTeX.

    Without a NormBT method beside its base there are no gains to write.

    Raises InputError: a file in `data` is missing or lacks a column.
    """
    frame = collect(data)
    n = ", ".join(str(number) for number in shown_n(frame))
    interval = "95% bootstrap over prompts and seeds"
    unit = "in standard deviations of the policy's gold score above its mean"
    golds = qualities(frame) and f".{qualities(frame)}"
    about = f"Best-of-N: gold score of the pick at n = {n}, {unit} ({interval}){golds}"
    written = [*save(at_shown(frame, "gold"), folder / "best_of_n", about, note)]
    gains = frame[frame["gain"].notna()]
    if len(gains):
        about = (
            f"NormBT's gold score minus its base's at n = {n}, same prompts and seeds ({interval})"
        )
        table = at_shown(gains, "gain")
        written += save(table, folder / "best_of_n_gains", f"{about}{golds}", note)
    falls = read_tidy(data / "best_of_n_overoptimisation.csv", ["method", "peak_n", "drop"])
    about = (
        "Over-optimisation: gold at its peak minus gold at the largest n, the peak taken from the "
        f"other half of the prompts ({interval}); proxy_rise: what the proxy gains meanwhile{golds}"
    )
    front = ["gold_kind", "method"]
    falls = falls[[*front, *(name for name in falls if name not in front)]]
    return [*written, *save(falls, folder / "best_of_n_overoptimisation", about, note)]


def save(frame: pd.DataFrame, stem: Path, caption: str, note: str) -> tuple[Path, Path, Path]:
    """Write one of the tables in three forms."""
    headers = {f"{kind}_{n}": f"n = {n}" for kind in ("gold", "gain") for n in SHOWN}
    headers |= {"gold_kind": "Gold"}
    return write_table(frame, stem, caption, note, headers, {"gold_kind": gold_label}, digits=2)


def shown_n(frame: pd.DataFrame) -> list[int]:
    """Return those of n = 4, 16, 64, 405 that were reached (the largest n where none was)."""
    most = int(frame["n"].max()) if len(frame) else 1
    return [n for n in SHOWN if n <= most] or [most]


def at_shown(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return one row per gold and method: `name`_4, `name`_4_low, `name`_4_high, and so on."""
    rows = []
    for _, part in parts(frame):
        for method in [*methods_of(part), *(m for m in (ORACLE, RANDOM) if m in set(part.method))]:
            of_n = part[part["method"] == method].set_index("n")
            row = {"gold_kind": part["gold_kind"].iloc[0], "method": method}
            row |= {"prompts": of_n["prompts"].iloc[0], "seeds": of_n["seeds"].iloc[0]}
            for n in shown_n(frame):
                for end in ("", "_low", "_high"):
                    row[f"{name}_{n}{end}"] = of_n[f"{name}{end}"].get(n, np.nan)
            rows.append(row)
    return pd.DataFrame(rows)
