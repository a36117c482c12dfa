"""Every figure and table of a results folder, drawn from its saved data alone, and their index."""

import json
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from matplotlib.figure import Figure

from analysis import style
from analysis.tables import AbsentError, from_manifest, within
from eval.tables import markdown_text
from rm.errors import InputError
from rm.files import atomic_write_json, atomic_write_text, read_json

FIGURES: Final[dict[str, ModuleType]] = {
    f"figure{number}": import_module(f"analysis.figure{number}") for number in range(1, 13)
}
TABLES: Final[dict[str, ModuleType]] = {
    **{f"table{number}": import_module(f"analysis.table{number}") for number in range(1, 6)},
    "best_of_n": FIGURES["figure5"],
}
ABOUT: Final = {
    "best_of_n": "Best-of-N: gold scores of the picks, what NormBT adds, over-optimisation."
}
"""What an item shows, where the first line of its module's docstring does not say it."""
OPTIONAL: Final = {
    "best_of_n": ("best_of_n.csv", "Best-of-N was not run in this profile"),
    "figure5": ("best_of_n.csv", "Best-of-N was not run in this profile"),
    "figure11": ("sweep.csv", "the sensitivity sweep was not run in this profile"),
    "table5": ("sweep_scores.parquet", "there are no scores by pair of a sensitivity sweep"),
}
INDEX: Final = "index.json"
PAGE: Final = "README.md"
CROSSED: Final = ("figure12", "table1", "table2", "table4", "table5")
"""Items with intervals over seeds and pairs, of which the manifest says the kind."""
NEEDED: Final = ("label", "runs", "profile")
"""What a manifest must say for figures and the page."""
OWN_ROWS: Final = ("hub", "generated test pairs")
"""What a manifest says of a benchmark's rows where they are those that its name promises."""


@dataclass
class Item:
    """A figure or table: what it shows, its files, and why it is missing if it is.

    `about` is the module's first line; `title` is printed on a figure, `caption` below it on pages;
    `files` are paths relative to the results folder.
    """

    name: str
    about: str
    title: str = ""
    caption: str = ""
    files: list[str] = field(default_factory=list)
    missing: str = ""

    def line(self) -> str:
        """Return one line for people: drawn and where, or missing and why."""
        if self.missing:
            return f"{self.name:9} missing: {self.missing}"
        return f"{self.name:9} {', '.join(self.files)}"


def read_manifest(results: Path) -> dict[str, Any]:
    """Return `results`/manifest.json; its label says what to know of the benchmark's rows.

    It adds that they are a file's, and how many share their prompt with a training pair.

    Raises InputError: it is missing or unreadable.
    """
    content = from_manifest(results, lambda made: made | {name: made[name] for name in NEEDED})
    label = content["label"]
    rows, seen = content.get("benchmark_data"), content.get("test_pairs_trained_on")
    if rows not in (None, *OWN_ROWS):
        label += f" · its rows from a file, {rows}, not from the Hub"
    if seen:
        label += f" · test pairs that share their prompt with a training pair: {seen}"
    return {**content, "label": label}


def draw_all(results: Path) -> list[Item]:
    """Draw every figure and table of `results` from `results`/data and its manifest.

    Writes figures/*.png and *.svg, tables/*.csv, *.md and *.tex, figures/index.json, which holds
    what this returns, and figures/README.md, the figures with their captions. What was not run is
    an item that says so, not an error; files of it from an earlier call are removed, so that
    nothing out of date stands beside the rest.

    Raises InputError: the manifest is missing or unreadable, or data that are there are unusable.
    """
    note = str(read_manifest(results)["label"])
    return write_index(results, [draw_one(name, results, note) for name in (*TABLES, *FIGURES)])


def redraw(results: Path, names: Collection[str]) -> list[Item]:
    """Draw the items `names` of a results folder again; return all items, and write their index.

    Raises InputError: the manifest or the index of the last `draw_all` is missing or unreadable.
    """
    note = str(read_manifest(results)["label"])
    items = read_index(results)
    drawn = [draw_one(item.name, results, note) if item.name in names else item for item in items]
    return write_index(results, drawn)


def write_index(results: Path, items: list[Item]) -> list[Item]:
    """Write what `read_index` reads, and the figures with captions as a page; return the items."""
    folder = results / "figures"
    atomic_write_json(folder / INDEX, [asdict(item) for item in items])
    drawn = [item for item in items if item.name in FIGURES and item.files]
    parts = [
        f"## {markdown_text(item.about)}\n\n![{markdown_text(item.title)}]({item.name}.png)\n\n"
        f"{markdown_text(item.caption)}"
        for item in drawn
    ]
    what = markdown_text(str(read_manifest(results)["label"]))
    atomic_write_text(folder / PAGE, "\n\n".join(["# Figures", what, *parts]) + "\n")
    return items


def draw_one(name: str, results: Path, note: str) -> Item:
    """Draw the figure or write the table called `name`, with `note` or a note of its own."""
    if name in TABLES:
        return draw_table(name, results, note_of(name, results, note))
    return draw_figure(name, results, note_of(name, results, note))


def options(name: str, results: Path) -> dict[str, bool]:
    """Return {"crossed": True} for an item whose intervals the manifest asks to be crossed."""
    asked = name in CROSSED and read_manifest(results).get("intervals") == "crossed"
    return {"crossed": True} if asked else {}


def note_of(name: str, results: Path, note: str) -> str:
    """Return the facts that stand below an item: Best-of-N and the sweeps have their own."""
    best_of_n, sweeps = (results / "data" / f"{name}.json" for name in ("best_of_n", "sweep"))
    if name in ("best_of_n", "figure5") and best_of_n.is_file():
        return str(read_json(best_of_n)["label"])
    if name in ("figure11", "table5") and sweeps.is_file():
        made = read_json(sweeps).values()
        return "; ".join(sorted({str(one["label"]) for one in made}))
    return note


def read_index(results: Path) -> list[Item]:
    """Return the items of the last `draw_all`. Raises InputError: there was none."""
    path = results / "figures" / INDEX
    if not path.is_file():
        raise InputError(f"{path} is missing: draw the figures first (make figures)")
    return [Item(**item) for item in json.loads(path.read_text())]


def require(name: str, results: Path) -> None:
    """Raise AbsentError where what an optional item shows was not run."""
    wanted, reason = OPTIONAL.get(name, ("", ""))
    if wanted and not (results / "data" / wanted).is_file():
        raise AbsentError(reason)


def figure(name: str, results: Path, note: str) -> Figure:
    """Return one figure of a results folder, as `draw_all` draws it.

    Raises AbsentError: what it shows was not run; InputError: data that are there are unusable.
    """
    require(name, results)
    module = FIGURES[name]
    drawn: Figure = module.draw(
        module.collect(results / "data"), note=note, **options(name, results)
    )
    return drawn


def draw_figure(name: str, results: Path, note: str) -> Item:
    """Draw one figure; the item says where, or why not."""

    def make(item: Item) -> list[Path]:
        drawn = figure(name, results, note)
        item.title, item.caption = unwrapped(drawn.get_suptitle()), str(drawn.get_label())
        return [*style.write_figure(drawn, results / "figures" / name)]

    return attempt(name, FIGURES[name], results, "figures", make)


def draw_table(name: str, results: Path, note: str) -> Item:
    """Write one table in all its forms; the item says where, or why not."""
    source = results if name == "table3" else results / "data"  # table 3 is of the manifest

    def make(item: Item) -> list[Path]:
        require(name, results)
        module = TABLES[name]
        paths: list[Path] = module.write(source, results / "tables", note, **options(name, results))
        item.title = paths[1].read_text().split("\n", 1)[0]
        return paths

    return attempt(name, TABLES[name], results, "tables", make)


def attempt(
    name: str,
    module: ModuleType,
    results: Path,
    folder: str,
    make: Callable[[Item], list[Path]],
) -> Item:
    """Run `make` on a fresh item; an AbsentError becomes the reason why it is missing."""
    item = Item(name, ABOUT.get(name) or (module.__doc__ or "").split("\n\n")[0].strip())
    try:
        item.files = [str(path.relative_to(results)) for path in make(item)]
    except AbsentError as error:
        item.missing = within(results, error)
        stale = [*results.glob(f"{folder}/{name}.*"), *results.glob(f"{folder}/{name}_*.*")]
        for path in stale:
            path.unlink()
    return item


def unwrapped(text: str) -> str:
    """Return a figure's wrapped text as one line."""
    return " ".join(text.split())
