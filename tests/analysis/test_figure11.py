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


def test_the_average_is_added_and_seeds_are_summed_up(tmp_path: Path) -> None:
    frame = collected(tmp_path, sweep())
    table = figure11.summary(frame).set_index(["section", "value"])
    assert table.loc[("average", 1e-6), "mean"] == pytest.approx(65.5)
    row = table.loc[("reasoning", 1.0)]
    assert (row["mean"], row["mean_low"], row["mean_high"]) == pytest.approx((70.5, 70, 71))
    assert row["seeds"] == 2
    assert figure11.verdict(frame) == "NormBT's average moves 10.0 by ε (activation units)"


def test_the_title_says_what_normbt_adds_at_the_values_and_seeds_that_bt_has_too(
    tmp_path: Path,
) -> None:
    """NormBT's Reasoning is 50, 60, 70 percent, BT's 57 at each; β is NormBT's alone."""
    bt = sweep(seeds=3).assign(method="bt")
    bt["accuracy"] = bt["accuracy"].where(bt["section"] == "Chat", 0.57 + 0.01 * bt["seed"])
    bt.loc[bt["seed"] == 2, "accuracy"] = 0.0  # NormBT has no such seed
    more = sweep((0.5, 0.9)).assign(parameter="beta")
    apart = [sweep((1.0,)).assign(parameter="cap"), bt[bt["value"] == 1e-6].assign(parameter="cap")]
    frame = collected(tmp_path, pd.concat([sweep(), bt, more, *apart]))
    assert figure11.verdict(frame) == (
        "NormBT − BT on Reasoning, points: −7.0 to 13.0 by ε (activation units). "
        "NormBT's average moves 5.0 by β of the moving average"
    )
    one = collected(
        tmp_path, pd.concat([sweep((1.0,)), bt[bt["value"] == 1.0].assign(accuracy=0.5)])
    )
    assert figure11.verdict(one) == "NormBT − BT on Reasoning, points: 0.5 by ε (activation units)"


def test_draw_uses_a_logarithmic_axis_where_values_span_decades(tmp_path: Path) -> None:
    wide, narrow = sweep(), sweep((0.5, 0.9)).assign(parameter="beta")
    zero = sweep((0.0, 2.0, 40.0)).assign(parameter="cap")
    noise = sweep((0.0, 0.2, 0.4)).assign(parameter="label_noise")
    figure = figure11.draw(collected(tmp_path, pd.concat([wide, narrow, zero, noise])), note="n")
    scales = {axes.get_xlabel(): axes.get_xscale() for axes in figure.axes}
    assert scales["β of the moving average"] == "linear" and scales["weight cap"] == "symlog"
    assert scales["ε (activation units)"] == "log"
    assert scales["swapped labels among Reasoning"] == "linear"


def test_one_value_one_seed_draws_and_claims_nothing(tmp_path: Path) -> None:
    figure = figure11.draw(collected(tmp_path, sweep((1.0,), seeds=1)))
    assert (
        "NormBT over no two values" in figure.get_suptitle() and "1 seed" in figure.get_supxlabel()
    )


def test_the_caption_counts_the_seeds_of_a_point(tmp_path: Path) -> None:
    both = pd.concat([sweep(), sweep((0.5, 0.9), seeds=1).assign(parameter="beta")])
    caption = figure11.draw(collected(tmp_path, both)).get_supxlabel()
    assert caption.startswith("1 to 2 seeds a point.")


def test_collect_checks_its_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fractions from 0 to 1"):
        collected(tmp_path, sweep().assign(accuracy=60.0))
    with pytest.raises(InputError, match="more than one row"):
        collected(tmp_path, pd.concat([sweep(), sweep()]))
    with pytest.raises(InputError, match="no rows"):
        collected(tmp_path, sweep().head(0))


def test_the_legend_names_methods_of_every_panel_and_a_section_may_be_absent(
    tmp_path: Path,
) -> None:
    """β has no BT, so its panel alone would leave BT's colour without a name."""
    ours = sweep((0.5, 0.9)).assign(parameter="beta")
    both = pd.concat(
        [sweep((1.0, 2.0)).assign(parameter="cap", method=m) for m in ("bt", "normbt")]
    )
    absent = ours[ours["section"] == "Chat"].assign(section="Safety", accuracy=None)
    frame = collected(tmp_path, pd.concat([ours, both, absent]))
    assert set(frame["section"]) == {"chat", "reasoning", "average"}
    legends = [axes.get_legend() for axes in figure11.draw(frame).axes]
    (shown,) = [one for one in legends if one is not None]
    names = {text.get_text() for text in shown.get_texts()}
    assert names == {f"{m}, {s}" for m in ("BT", "NormBT") for s in ("average", "reasoning")}
