"""The gallery: kinds of intervals by the manifest, the index and the page of captions."""

import json
from pathlib import Path

import pandas as pd
import pytest

from analysis import figure12, gallery, table1
from analysis.tables import HIGH, LOW
from eval import crossed
from eval.tables import markdown_text
from tests.analysis.test_table1 import unlike_seeds

KINDS = ({}, {"intervals": "crossed"})


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Three methods of three unlike seeds, the same as a sweep of one value, no manifest."""
    rows = unlike_seeds()
    other = rows[rows["method"] == "normbt"].assign(method="normbt_no_ema")
    made = pd.concat([rows, other.assign(seed=2 - other["seed"])])
    (tmp_path / "data").mkdir()
    made.to_parquet(tmp_path / "data" / "scores.parquet")
    made.assign(parameter="beta", value=0.5).to_parquet(tmp_path / "data" / "sweep_scores.parquet")
    return tmp_path


def ask(results: Path, asked: dict[str, str]) -> None:
    manifest = {"label": "n", "runs": [], "profile": "cpu"}
    (results / "manifest.json").write_text(json.dumps(manifest | asked))


@pytest.mark.parametrize("name", ["table2", "table4", "table5"])
def test_tables_take_the_manifests_kind_of_interval(results: Path, name: str) -> None:
    widths = []
    for asked in KINDS:
        ask(results, asked)
        assert not gallery.draw_one(name, results, "n").missing
        text = (results / "tables" / f"{name}.md").read_text()
        assert ("new training seeds and new test pairs" in text) == bool(asked)
        assert ("95% bootstrap over training seeds" in text) == (not asked)
        table = pd.read_csv(results / "tables" / f"{name}.csv")
        cell = "bt" if name == "table4" else "reasoning"
        assert (f"{cell}_seed_high" in table) == bool(asked)
        widths.append((table[cell + HIGH] - table[cell + LOW]).max())
    assert widths[0] != widths[1]


def test_table_4_has_the_crossed_intervals_of_subsets(results: Path) -> None:
    ask(results, KINDS[1])
    gallery.draw_one("table4", results, "n")
    table = pd.read_csv(results / "tables" / "table4.csv").set_index("subset")
    frame = table1.collect(results / "data")
    rows = frame[frame["method"] == "normbt"]
    found = crossed.intervals(rows, table1.protocol_of("generated", frame)).set_index("name")
    for ours, theirs in {"": "mean", LOW: "low", HIGH: "high", "_seed_low": "seed_low"}.items():
        expected = 100 * found.loc["Reasoning-sub", theirs]
        assert table.loc["Reasoning-sub", f"normbt{ours}"] == pytest.approx(expected, abs=1e-3)


def test_a_sweep_with_one_seed_somewhere_keeps_the_bootstrap(results: Path) -> None:
    ask(results, KINDS[1])
    path = results / "data" / "sweep_scores.parquet"
    swept = pd.read_parquet(path)
    pd.concat([swept, swept[swept["seed"] == 0].assign(value=0.9)]).to_parquet(path)
    assert not gallery.draw_one("table5", results, "n").missing
    assert "95% bootstrap" in (results / "tables" / "table5.md").read_text()


def test_figure_12_takes_the_manifests_kind_of_interval(results: Path) -> None:
    frame = table1.collect(results / "data")
    for asked in KINDS:
        ask(results, asked)
        expected = figure12.draw(frame, note="n", crossed=bool(asked))
        item = gallery.draw_one("figure12", results, "n")
        assert (item.title, item.caption) == (expected.get_suptitle(), expected.get_label())
        assert ("new seeds and test pairs" in item.caption) == bool(asked)


def test_the_page_of_figures_has_their_captions(results: Path) -> None:
    ask(results, {})
    items = {item.name: item for item in gallery.draw_all(results)}
    page = (results / "figures" / "README.md").read_text()
    drawn = [item for item in items.values() if item.name in gallery.FIGURES and item.files]
    label = markdown_text(str(gallery.read_manifest(results)["label"]))
    assert label and page.startswith(f"# Figures\n\n{label}\n\n")
    assert [item.name for item in drawn] == ["figure4", "figure12"] and page.count("![") == 2
    assert all(f"]({item.name}.png)\n\n{markdown_text(item.caption)}\n" in page for item in drawn)
