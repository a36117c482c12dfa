"""Figure 11 from a hand-made sweep."""

from pathlib import Path

import pandas as pd
import pytest

from analysis import figure11
from rm.errors import InputError


def sweep(values: tuple[float, ...] = (1e-6, 1e-3, 1.0), seeds: int = 2) -> pd.DataFrame:
    """Chat 0.8 everywhere, Reasoning 0.5 + 0.1 a step, ± 0.01 a seed."""
    rows = [
        {
            **{"method": "normbt", "parameter": "epsilon", "value": value, "seed": seed},
            **{"section": section, "accuracy": base + 0.1 * step * slope + 0.01 * seed},
        }
        for step, value in enumerate(values)
        for seed in range(seeds)
        for section, base, slope in (("Chat", 0.8, 0), ("Reasoning", 0.5, 1))
    ]
    return pd.DataFrame(rows)


def collected(folder: Path, frame: pd.DataFrame) -> pd.DataFrame:
    frame.to_csv(folder / "sweep.csv", index=False)
    return figure11.collect(folder)


def bt(seeds: int = 3, reasoning: float = 0.57) -> pd.DataFrame:
    """BT's Reasoning is the same at every value; the last seed is one that NormBT lacks."""
    frame = sweep(seeds=seeds).assign(method="bt")
    flat = reasoning + 0.01 * frame["seed"]
    frame["accuracy"] = frame["accuracy"].where(frame["section"] == "Chat", flat)
    frame.loc[frame["seed"] == 2, "accuracy"] = 0.0
    return frame


def test_differences_are_paired_by_value_and_seed(tmp_path: Path) -> None:
    """NormBT's Reasoning is 50, 60, 70 percent, BT's 57 at each; Chat is the same."""
    frame = collected(tmp_path, pd.concat([sweep(), bt()]))
    table = figure11.differences(frame).set_index(["section", "value"])
    assert set(table["method"]) == {"normbt"} and set(table["minus"]) == {"bt"}
    assert table.loc["reasoning", "gain"].tolist() == pytest.approx([-7, 3, 13])
    assert table.loc["average", "gain"].tolist() == pytest.approx([-3.5, 1.5, 6.5])
    assert set(table["seeds"]) == {2}
    apart = pd.concat([sweep((1.0,)), bt()[lambda rows: rows["value"] == 1e-6]])
    assert figure11.differences(collected(tmp_path, apart)).empty  # no value in common


def test_without_its_base_a_method_is_shown_against_its_own_mean(tmp_path: Path) -> None:
    table = figure11.differences(collected(tmp_path, sweep()))
    rows = table[table["section"] == "reasoning"]
    assert rows["gain"].tolist() == pytest.approx([-10, 0, 10])
    assert set(rows["minus"]) == {figure11.OWN_MEAN}
    assert (rows["gain_low"] <= rows["gain"]).all() and (rows["gain"] <= rows["gain_high"]).all()


def test_the_title_says_what_normbt_adds(tmp_path: Path) -> None:
    both = pd.concat([sweep(), bt()])
    cases = {
        "NormBT's Reasoning gain over BT: −7.0 to +13.0 points": both,
        "NormBT's Reasoning accuracy moves by at most 20.0 points": sweep(),
        "NormBT and BT were not swept side by side": sweep((1.0,)),
    }
    pairs = both.assign(parameter="train_pairs", value=both["value"].map(
        {1e-6: 900.0, 1e-3: 3600.0, 1.0: 12000.0}))  # fmt: skip
    cases["Reasoning gain: −7.0 at 900 pairs, +13.0 at 12,000; seed ranges differ"] = pairs
    few = pairs[pairs["value"] == 900.0]
    same = pd.concat([few, few.assign(value=12000.0)])
    cases["Reasoning gain: −7.0 at 900 pairs, −7.0 at 12,000; seed ranges overlap"] = same
    for title, rows in cases.items():
        table = figure11.differences(collected(tmp_path, rows))
        assert figure11.verdict(table) == title and len(title.split()) <= 12


def test_draw_uses_a_logarithmic_axis_where_values_span_decades(tmp_path: Path) -> None:
    wide, narrow = sweep(), sweep((0.5, 0.9)).assign(parameter="beta")
    zero = sweep((0.0, 2.0, 40.0)).assign(parameter="cap")
    noise = sweep((0.0, 0.2, 0.4)).assign(parameter="label_noise")
    figure = figure11.draw(collected(tmp_path, pd.concat([wide, narrow, zero, noise])), note="n")
    scales = {axes.get_xlabel(): axes.get_xscale() for axes in figure.axes}
    assert scales["β of the moving average"] == "linear" and scales["weight cap"] == "symlog"
    assert scales["ε (activation units)"] == "log"
    assert scales["swapped labels among Reasoning"] == "linear"


def test_two_values_stand_side_by_side_whatever_lies_between(tmp_path: Path) -> None:
    rows = sweep((5.0, 1e9)).assign(parameter="clip_norm")
    axes = figure11.draw(collected(tmp_path, rows)).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["5", "1e+09"]
    assert axes.get_xlabel() == "largest gradient norm" and axes.get_xscale() == "linear"


def test_one_value_one_seed_draws_and_claims_nothing(tmp_path: Path) -> None:
    figure = figure11.draw(collected(tmp_path, sweep((1.0,), seeds=1)))
    assert "not swept side by side" in figure.get_suptitle()
    assert str(figure.get_label()).startswith("1 seed.")


def test_the_caption_counts_the_seeds_of_a_point(tmp_path: Path) -> None:
    both = pd.concat([sweep(), sweep((0.5, 0.9), seeds=1).assign(parameter="beta")])
    caption = str(figure11.draw(collected(tmp_path, both)).get_label())
    assert caption.startswith("1 to 2 seeds per point.")


def test_collect_checks_its_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fractions from 0 to 1"):
        collected(tmp_path, sweep().assign(accuracy=60.0))
    with pytest.raises(InputError, match="more than one row"):
        collected(tmp_path, pd.concat([sweep(), sweep()]))
    with pytest.raises(InputError, match="no rows"):
        collected(tmp_path, sweep().head(0))


def test_panels_say_what_is_compared_and_a_section_may_be_absent(tmp_path: Path) -> None:
    alone = sweep((0.5, 0.9)).assign(parameter="beta")
    absent = alone[alone["section"] == "Chat"].assign(section="Safety", accuracy=None)
    frame = collected(tmp_path, pd.concat([sweep(), bt(), alone, absent]))
    assert set(frame["section"]) == {"chat", "reasoning", "average"}
    figure = figure11.draw(frame)
    titles = {axes.get_xlabel(): axes.get_title(loc="left") for axes in figure.axes[:2]}
    assert titles == {
        "β of the moving average": "NormBT − its mean",
        "ε (activation units)": "NormBT − BT",
    }
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["Average", "Reasoning"]
