"""Figure 5: Best-of-N, what NormBT adds to the gold score of the proxy's pick, against KL.

One row per gold; one panel per method with NormBT's weight, minus its base loss on the same prompts
and seeds. The scores themselves, the oracle's and random picks' are in the Best-of-N tables.
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
from rm.errors import InputError
from rm.files import read_json

KEYS: Final = ["gold_kind", "method", "seed", "n"]
COLUMNS: Final = [
    *(*KEYS, "kl", "proxy", "gold", "gold_low", "gold_high"),
    *("gain", "gain_low", "gain_high", "prompts", "samples", "seeds"),
]
SHOWN: Final = (4, 16, 64, 405)
GOLDS: Final = {"verifier": "verified by code", "reward_model": "gold reward model"}


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
        drawn = facts["samples"]
        return (
            "Candidates are independent draws from a synthetic policy: right with probability "
            f"{policy['right']:g}, otherwise with one fault. {drawn['distinct']:,} of "
            f"{drawn['responses']:,} are distinct, so KL is an upper bound."
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


def parts(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the display name and the rows of every gold."""
    for kind in ordered(frame["gold_kind"], list(GOLDS)):
        yield gold_label(kind), frame[frame["gold_kind"] == kind]


def gold_label(kind: str) -> str:
    """Return a gold's display name."""
    return GOLDS.get(kind, kind)


def verdict(frame: pd.DataFrame) -> str:
    """Return for how many methods NormBT's weight raises the gold score at the largest n."""
    last = frame[(frame["n"] == frame["samples"]) & frame["gain"].notna()]
    if last.empty:
        return "Best-of-N: no NormBT method beside its base"
    up, down = (last["gain_low"] > 0).sum(), (last["gain_high"] < 0).sum()
    if len(last) == 1:
        effect = "raises" if up else "lowers" if down else "has an inconclusive effect on"
        return f"Best-of-N: NormBT {effect} the gold score"
    if down:
        return f"Best-of-N: NormBT raises gold in {up}, lowers it in {down} of {len(last)}"
    return f"Best-of-N: NormBT raises the gold score in {up} of {plural(len(last), 'comparison')}"


@style.styled
def draw(frame: pd.DataFrame, note: str = "") -> Figure:
    """Return the figure: a row per gold, a panel per method beside its base.

    `frame` is what `collect` returns.

    Raises InputError: the frame has no rows or lacks a column.
    """
    require(frame, COLUMNS, "figure 5's data")
    gains = frame[frame["gain"].notna()]
    rows, methods = list(parts(gains)) or list(parts(frame)), methods_of(gains)
    figure = style.new_figure(height=0.9 + 1.6 * len(rows))
    shape = len(rows), max(1, len(methods))
    grid = figure.subplots(*shape, squeeze=False, sharex="row", sharey="row")
    for axes_row, (name, part) in zip(grid, rows, strict=True):
        for axes, method in zip(axes_row, methods or [""], strict=True):
            panel(axes, part[part["method"] == method], method)
        axes_row[0].set_ylabel(f"gold: {name}\n(policy's s.d.)")
    for axes in grid[-1]:
        axes.set_xlabel("KL (nats)")
    style.add_text(figure, verdict(frame), caption(frame), note)
    return figure


def caption(frame: pd.DataFrame) -> str:
    """Return what is counted and how its intervals are made."""
    most = frame.iloc[int(frame["seeds"].to_numpy().argmax())]
    return (
        f"{plural(int(most['prompts']), 'prompt')}, best of up to {int(most['samples'])}, "
        f"{plural(int(most['seeds']), 'seed')}. Gold score of the pick minus that of the base "
        "loss; KL = ln n − (n − 1)/n; dotted lines and their numbers: n. Bands: 95% bootstrap over "
        "prompts and seeds."
        f"{qualities(frame)}"
    )


def qualities(frame: pd.DataFrame) -> str:
    """Return the sentences on the golds of `collect`'s rows, each after a space."""
    return "".join(f" {words}" for words in dict.fromkeys(frame["quality"]) if words)


def panel(axes: Axes, rows: pd.DataFrame, method: str) -> None:
    """Draw one method's paired gain over its base against KL, n = 4, 16, … marked above."""
    if rows.empty:
        style.no_data(axes, "no NormBT method beside its base")
        return
    rows, colour = rows.sort_values("kl"), style.METHOD_COLOURS.get(method, style.OTHER)
    axes.axhline(0, color=style.BLACK, linewidth=0.7)
    style.band(axes, rows["kl"], rows["gain_low"], rows["gain_high"], colour, alpha=0.25)
    axes.plot(rows["kl"], rows["gain"], color=colour)
    axes.set_title(style.wrap(method_label(method), 26), loc="left", fontsize=7, pad=12)
    axes.grid(axis="x", visible=False)
    for n in [n for n in SHOWN if n <= rows["n"].max()]:
        kl = float(kl_of(n))
        axes.axvline(kl, color="#c8c8c8", linestyle=":", linewidth=0.6, zorder=0)
        axes.annotate(
            f"{n}", (kl, 1.01), xycoords=("data", "axes fraction"), fontsize=6, color=style.GREY,
            ha="center", va="bottom",
        )  # fmt: skip


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
        "Over-optimisation. Gold peak: the best mean gold score, at peak n. Drop: gold at the n "
        "that is best on the other half of the prompts minus gold at the largest n; below zero, "
        f"gold still rises ({interval}). Proxy rise: the proxy's gain from the peak to the largest "
        f"n{golds}"
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
