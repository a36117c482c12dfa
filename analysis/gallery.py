"""Every figure and table of a results folder, drawn from its saved data alone, and their index."""

import json
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from analysis import style
from analysis.tables import AbsentError, from_manifest, within
from rm.errors import InputError
from rm.files import atomic_write_json, read_json

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
NEEDED: Final = ("label", "runs", "profile")
"""What a manifest must say for figures and the page."""
OWN_ROWS: Final = ("hub", "generated test pairs")
"""What a manifest says of a benchmark's rows where they are those that its name promises."""


@dataclass
class Item:
    """A figure or table: what it shows, its files, and why it is missing if it is.

    `about` is the module's first line; `title` and `caption` are what is printed on the figure;
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

    That they are a file's, and how many of them have a prompt that is trained on.

    Raises InputError: it is missing or unreadable.
    """
    content = from_manifest(results, lambda made: made | {name: made[name] for name in NEEDED})
    label = content["label"]
    rows, seen = content.get("benchmark_data"), content.get("test_pairs_trained_on")
    if rows not in (None, *OWN_ROWS):
        label += f" · its rows from a file, {rows}, not from the Hub"
    if seen:
        label += f" · {style.plural(seen, 'test pair')} with a prompt that is trained on"
    return {**content, "label": label}


def draw_all(results: Path) -> list[Item]:
    """Draw every figure and table of `results` from `results`/data and its manifest.

    Writes figures/*.png and *.svg, tables/*.csv, *.md and *.tex, and figures/index.json, which
    holds what this returns. What was not run is an item that says so, not an error; files of it
    from an earlier call are removed, so that nothing stale stands beside the rest.

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
    """Write what `read_index` reads; return the items."""
    atomic_write_json(results / "figures" / INDEX, [asdict(item) for item in items])
    return items


def draw_one(name: str, results: Path, note: str) -> Item:
    """Draw the figure or write the table called `name`, with `note` or a note of its own."""
    note = note_of(name, results, note)
    if name in TABLES:
        return draw_table(name, TABLES[name], results, note)
    return draw_figure(name, FIGURES[name], results, note)


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


def draw_figure(name: str, module: ModuleType, results: Path, note: str) -> Item:
    """Draw one figure; the item says where, or why not."""

    def make(item: Item) -> list[Path]:
        figure = module.draw(module.collect(results / "data"), note=note)
        item.title = unwrapped(figure.get_suptitle())
        item.caption = unwrapped(figure.get_supxlabel())
        return [*style.write_figure(figure, results / "figures" / name)]

    return attempt(name, module, results, "figures", make)


def draw_table(name: str, module: ModuleType, results: Path, note: str) -> Item:
    """Write one table in all its forms; the item says where, or why not.

    Table 1 states the crossed interval, and beside it the one over seeds, where the manifest asks
    for "intervals": "crossed".
    """
    source = results if name == "table3" else results / "data"  # table 3 is of the manifest
    crossed = name == "table1" and read_manifest(results).get("intervals") == "crossed"

    def make(item: Item) -> list[Path]:
        more = {"crossed": True} if crossed else {}
        paths = module.write(source, results / "tables", note, **more)
        item.title = paths[1].read_text().split("\n", 1)[0]
        return paths

    return attempt(name, module, results, "tables", make)


def attempt(
    name: str,
    module: ModuleType,
    results: Path,
    folder: str,
    make: Callable[[Item], list[Path]],
) -> Item:
    """Run `make` on a fresh item; an AbsentError becomes the reason why it is missing."""
    item = Item(name, ABOUT.get(name) or (module.__doc__ or "").split("\n\n")[0].strip())
    wanted, reason = OPTIONAL.get(name, ("", ""))
    try:
        if wanted and not (results / "data" / wanted).is_file():
            raise AbsentError(reason)
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
