"""Figure 2 from hand-made gradients."""

from pathlib import Path

import pandas as pd
import pytest

from analysis import figure2, style
from analysis.gradients import THETA
from rm.errors import InputError

MIDDLE = {"Reasoning": 1.0, "Safety": 4.0, "Chat": 2.0, "Chat Hard": 3.0}


def gradients(seeds: dict[str, int], middle: dict[str, float] | None = None) -> pd.DataFrame:
    """Three pairs a section: the middle ± 0.5; the gradient norm is ten times the distance."""
    rows = [
        {
            **{"method": method, "seed": seed, "pair_id": f"{section}/{i}", "section": section},
            "distance": value + 0.5 * i + 0.1 * seed,
            "gradient_norm": 10 * (value + 0.5 * i + 0.1 * seed),
        }
        for method, number in seeds.items()
        for seed in range(number)
        for section, value in (middle or MIDDLE).items()
        for i in (-1, 0, 1)
    ]
    return pd.DataFrame(rows)


ALL = {"normbt": 3, "untrained": 1, "bt": 3}


def test_medians_average_seeds_first_and_follow_the_papers_order() -> None:
    table = figure2.medians(gradients(ALL), resamples=50)
    assert table["method"].drop_duplicates().tolist() == ["untrained", "bt", "normbt"]
    bt = table[(table["method"] == "bt") & (table["quantity"] == "distance")]
    assert bt["section"].tolist() == ["Chat", "Chat Hard", "Safety", "Reasoning"]
    assert bt["median"].tolist() == pytest.approx([2.1, 3.1, 4.1, 1.1])
    assert bt["pairs"].tolist() == [3, 3, 3, 3]  # not 9: seeds repeat pairs
    assert bt["smallest"].tolist() == [False, False, False, True]
    assert bt["smallest_share"].tolist() == pytest.approx([0, 0, 0, 1], abs=0.05)
    untrained = table[(table["method"] == "untrained") & (table["quantity"] == "gradient_norm")]
    assert untrained["median"].tolist() == pytest.approx([20, 30, 40, 10])


def test_verdict_is_computed_model_by_model() -> None:
    frame = gradients(ALL)
    assert "in both: untrained backbone, after BT training, after NormBT training" in (
        figure2.verdict(figure2.medians(frame, 10))
    )
    changed = frame.copy()
    reasoning = changed["section"] == "Reasoning"
    changed.loc[reasoning & (changed["method"] == "normbt"), "gradient_norm"] = 99.0
    changed.loc[reasoning & (changed["method"] == "bt"), ["gradient_norm", "distance"]] = 99.0
    words = figure2.verdict(figure2.medians(changed, 10))
    assert "in both: untrained backbone;" in words
    assert "in one: after NormBT training" in words and "in neither: after BT training" in words


def test_an_uncertain_smallest_is_shown_as_uncertain() -> None:
    frame = gradients({"bt": 1}, {"Chat": 1.02, "Reasoning": 1.0})
    table = figure2.medians(frame, resamples=1000)
    shares = table[table["quantity"] == "distance"]["smallest_share"].tolist()
    assert sum(shares) == pytest.approx(1) and 0.2 < shares[0] < 0.5 < shares[1]
    assert figure2.verdict(table).endswith("in neither: after BT training")


def test_draw_prints_medians_counts_and_verdict() -> None:
    figure = figure2.draw(gradients(ALL), note="tiny · 3 seeds")
    assert len(figure.axes) == 6
    top = figure.axes[1]
    assert [t.get_text() for t in top.get_xticklabels()] == [
        "Chat\nn = 3", "Chat Hard\nn = 3", "Safety\nn = 3", "Reasoning\nn = 3",
    ]  # fmt: skip
    assert [t.get_text() for t in top.texts] == ["2.00", "3.00", "4.00", "1.00"]
    assert "untrained backbone" in top.get_title(loc="left")
    assert "smallest median: Reasoning" in top.get_title(loc="left")
    assert figure.get_suptitle().startswith(
        "Reasoning pairs, smallest gradient norm and distance – in "
    )
    assert "tiny · 3 seeds" in figure.get_supxlabel()
    assert THETA in figure.get_supxlabel().replace("\n", " ")
    assert "after BT training 3 seeds" in figure.get_supxlabel().replace("\n", " ")


def test_wide_spread_is_drawn_on_a_logarithmic_axis_and_zeros_are_not_lost() -> None:
    frame = gradients({"bt": 1}, {"Chat": 1.0, "Reasoning": 2000.0})
    assert figure2.draw(frame).axes[0].get_yscale() == "log"
    assert figure2.draw(gradients(ALL)).axes[0].get_yscale() == "linear"
    frame.loc[0, "gradient_norm"] = 0.0
    assert figure2.draw(frame).axes[0].get_yscale() == "linear"


def test_one_category_draws_and_claims_nothing() -> None:
    figure = figure2.draw(gradients({"bt": 1}, {"Reasoning": 1.0}))
    assert "no other category" in figure.get_suptitle()
    assert "one category only" in figure.axes[0].get_title(loc="left")
    assert "not tested" in figure2.draw(gradients({"bt": 1}, {"Chat": 1.0})).get_suptitle()


def test_collect_checks_its_file(tmp_path: Path) -> None:
    frame = gradients(ALL).replace({"section": {"Chat Hard": "chat_hard"}})
    frame.assign(extra=1).to_csv(tmp_path / "gradients.csv", index=False)
    found = figure2.collect(tmp_path)
    assert list(found) == figure2.COLUMNS and len(found) == 84
    assert set(found["section"]) == set(style.SECTIONS)
    pd.concat([frame, frame.head(1)]).to_csv(tmp_path / "gradients.csv", index=False)
    with pytest.raises(InputError, match="more than one row"):
        figure2.collect(tmp_path)
    frame.head(0).to_csv(tmp_path / "gradients.csv", index=False)
    with pytest.raises(InputError, match="no rows"):
        figure2.collect(tmp_path)
    with pytest.raises(InputError, match="no rows"):
        figure2.draw(frame.head(0))
