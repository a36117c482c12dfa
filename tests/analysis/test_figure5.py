"""Figure 5 and the Best-of-N tables."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import figure5
from eval.best_of_n import curves
from rm.errors import InputError

METHODS = ("bt", "normbt", "bt_margin", "normbt_margin", "bt_label_smoothing")


def write_data(folder: Path, samples: int = 16, prompts: int = 30, seeds: int = 2) -> Path:
    """Best-of-N data of proxies whose noise is known: NormBT's is much less than its base's."""
    rng = np.random.default_rng(0)
    tables, falls = [], []
    for kind in ("verifier", "reward_model"):
        gold = rng.normal(size=(prompts, samples))
        noise = {name: 0.3 if name.startswith("norm") else 2.0 for name in METHODS}
        proxies = {
            name: {seed: gold + size * rng.normal(size=gold.shape) for seed in range(seeds)}
            for name, size in noise.items()
        }
        found = curves.curves_of(gold, proxies)
        tables.append(curves.table(found, gold, 100).assign(gold_kind=kind))
        falls.append(curves.overoptimisation(found, 100).assign(gold_kind=kind))
    folder.mkdir(parents=True, exist_ok=True)
    pd.concat(tables).to_csv(folder / "best_of_n.csv", index=False)
    pd.concat(falls).to_csv(folder / "best_of_n_overoptimisation.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("results") / "data")


def test_collect_takes_the_pooled_rows(data: Path) -> None:
    frame = figure5.collect(data)
    assert set(frame["seed"]) == {"all"}
    assert len(frame) == 2 * 16 * (len(METHODS) + 2)
    assert figure5.methods_of(frame) == list(METHODS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.assign(kl=frame["kl"] + 1), "kl is not ln n"),
        (lambda frame: frame.drop(columns="gain"), "lacks the columns gain"),
        (lambda frame: pd.concat([frame, frame]), "more than one row"),
        (lambda frame: frame[frame["seed"] == "0"], "has no rows"),
    ],
)
def test_broken_data_are_refused(
    data: Path, tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    frame = pd.read_csv(data / "best_of_n.csv")
    change(frame).to_csv(tmp_path / "best_of_n.csv", index=False)
    with pytest.raises(InputError, match=message):
        figure5.collect(tmp_path)


def test_missing_data_say_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"best_of_n\.csv is missing"):
        figure5.collect(tmp_path)


def test_draw_has_a_row_a_gold_and_a_panel_per_gain(data: Path) -> None:
    frame = figure5.collect(data)
    figure = figure5.draw(frame, note="tiny")
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["NormBT", "NormBT + margin"] * 2
    gains = frame[(frame["gold_kind"] == "verifier") & (frame["method"] == "normbt_margin")]
    zero, curve = figure.axes[1].lines[:2]
    assert list(zero.get_ydata()) == [0, 0]
    assert np.asarray(curve.get_ydata()) == pytest.approx(gains.sort_values("kl")["gain"])
    assert [text.get_text() for text in figure.axes[1].texts] == ["4", "16"]
    assert "30 prompts, best of up to 16, 2 seeds" in str(figure.get_label())
    title = "Best-of-N: NormBT raises the gold score in 4 of 4 comparisons"
    assert figure.get_suptitle() == title and figure.get_supxlabel() == "tiny"


def test_verdict_counts_up_and_down(data: Path) -> None:
    frame = figure5.collect(data)
    rows = (frame["n"] == 16) & frame["gain"].notna()
    frame.loc[rows, ["gain_low", "gain_high"]] = [[-2, -1], [-1, 1], [1, 2], [-1, 1]]
    assert figure5.verdict(frame) == "Best-of-N: NormBT raises gold in 1, lowers it in 1 of 4"
    one = frame[rows].head(1)
    for gains, effect in (
        ([1, 2], "raises"),
        ([-2, -1], "lowers"),
        ([-1, 1], "has an inconclusive effect on"),
    ):
        one = one.assign(gain_low=gains[0], gain_high=gains[1])
        assert figure5.verdict(one) == f"Best-of-N: NormBT {effect} the gold score"
    alone = frame[frame["method"].isin(["bt", "oracle", "random"])]
    assert figure5.verdict(alone) == "Best-of-N: no NormBT method beside its base"
    texts = [text.get_text() for axes in figure5.draw(alone).axes for text in axes.texts]
    assert texts == ["no NormBT method beside its base"] * 2


def test_a_synthetic_policy_is_named_below_the_figure(data: Path, tmp_path: Path) -> None:
    (tmp_path / "best_of_n.csv").write_bytes((data / "best_of_n.csv").read_bytes())
    facts = {"bon": {"policy": {"engine": "synthetic", "right": 0.3}}}
    facts["samples"] = {"responses": 6400, "distinct": 1820}
    (tmp_path / "best_of_n.json").write_text(json.dumps(facts))
    said = (
        "Candidates are independent draws from a synthetic policy: right with probability 0.3, "
        "otherwise with one fault. 1,820 of 6,400 are distinct, so KL is an upper bound."
    )
    assert said in figure5.caption(figure5.collect(tmp_path))
    assert said not in figure5.caption(figure5.collect(data))


def test_one_prompt_one_sample_draws(tmp_path: Path) -> None:
    frame = figure5.collect(write_data(tmp_path, samples=1, prompts=1, seeds=1))
    assert figure5.draw(frame).axes
    with pytest.raises(InputError, match="no rows"):
        figure5.draw(frame.head(0))


def test_tables_show_n_with_intervals_and_differences(data: Path, tmp_path: Path) -> None:
    paths = figure5.write(data, tmp_path, "tiny")
    assert [path.name for path in paths[:3]] == ["best_of_n.csv", "best_of_n.md", "best_of_n.tex"]
    table = pd.read_csv(paths[0]).set_index(["gold_kind", "method"])
    frame = figure5.collect(data).set_index(["gold_kind", "method", "n"])
    for name in ("gold", "gold_low", "gold_high"):
        shown = name.replace("gold", "gold_16", 1)
        expected = frame.loc[("verifier", "normbt", 16), name]
        assert table.loc[("verifier", "normbt"), shown] == pytest.approx(expected, abs=1e-4)
    assert not any("64" in str(column) for column in table.columns)  # N is 16
    text = paths[1].read_text()
    assert "| Gold | Method | Prompts | Seeds | n = 4 | n = 16 |" in text
    assert "| verified by code | NormBT + margin | 30 | 2 |" in text and "| oracle |" in text
    gains = pd.read_csv(tmp_path / "best_of_n_gains.csv")
    assert gains["method"].tolist() == ["normbt", "normbt_margin"] * 2
    assert (gains["gain_16_low"] > 0).all()
    falls = pd.read_csv(tmp_path / "best_of_n_overoptimisation.csv")
    assert len(falls) == 2 * len(METHODS) and not falls["overoptimised"].any()
