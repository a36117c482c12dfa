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


UNTRAINED = {"untrained": 1}


def table(frame: pd.DataFrame, resamples: int = 50) -> pd.DataFrame:
    return figure2.medians(figure2.mean_over_seeds(frame), resamples)


def test_medians_average_seeds_first_and_follow_the_papers_order() -> None:
    found = table(gradients({"untrained": 3}))
    rows = found[found["quantity"] == "distance"]
    assert rows["section"].tolist() == ["Chat", "Chat Hard", "Safety", "Reasoning"]
    assert rows["median"].tolist() == pytest.approx([2.1, 3.1, 4.1, 1.1])
    assert rows["pairs"].tolist() == [3, 3, 3, 3]  # not 9: seeds repeat pairs
    assert rows["smallest_share"].tolist() == pytest.approx([0, 0, 0, 1], abs=0.05)
    norms = table(gradients(UNTRAINED)).query("quantity == 'gradient_norm'")
    assert norms["median"].tolist() == pytest.approx([20, 30, 40, 10])


@pytest.mark.parametrize(
    ("larger", "words"),
    [
        ([], "Before training, Reasoning pairs are closest and have the smallest gradients"),
        (["gradient_norm"], "Reasoning pairs are closest; smallest gradients are uncertain"),
        (["distance"], "Reasoning pairs have the smallest gradients; the closest section is"),
        (["distance", "gradient_norm"], "Reasoning is not reliably smallest in gradient or"),
    ],
)
def test_the_title_says_in_what_reasoning_is_smallest(larger: list[str], words: str) -> None:
    frame = gradients(UNTRAINED)
    frame.loc[frame["section"] == "Reasoning", larger] = 99.0
    title = figure2.verdict(table(frame))
    assert words in title and len(title.split()) <= 12


def test_an_uncertain_smallest_is_shown_as_uncertain() -> None:
    found = table(gradients(UNTRAINED, {"Chat": 1.02, "Reasoning": 1.0}), resamples=1000)
    shares = found[found["quantity"] == "distance"]["smallest_share"].tolist()
    assert sum(shares) == pytest.approx(1) and 0.2 < shares[0] < 0.5 < shares[1]
    assert "not reliably smallest" in figure2.verdict(found)


def test_draw_prints_medians_counts_and_verdict() -> None:
    figure = figure2.draw(gradients(UNTRAINED), note="tiny · 1 seed")
    norm, distance = figure.axes
    assert [t.get_text() for t in distance.get_xticklabels()] == [
        "Chat\nn = 3", "Chat Hard\nn = 3", "Safety\nn = 3", "Reasoning\nn = 3",
    ]  # fmt: skip
    assert [t.get_text() for t in distance.texts] == ["2.00", "3.00", "4.00", "1.00"]
    assert [t.get_text() for t in norm.texts] == ["20.0", "30.0", "40.0", "10.0"]
    assert "smallest: Reasoning" in distance.get_title(loc="left")
    assert figure.get_supxlabel() == "tiny · 1 seed"
    assert THETA in str(figure.get_label()) and "12 pairs" in str(figure.get_label())


def test_wide_spread_is_drawn_on_a_logarithmic_axis_and_zeros_are_not_lost() -> None:
    frame = gradients(UNTRAINED, {"Chat": 1.0, "Reasoning": 2000.0})
    assert figure2.draw(frame).axes[0].get_yscale() == "log"
    assert figure2.draw(gradients(UNTRAINED)).axes[0].get_yscale() == "linear"
    frame.loc[0, "gradient_norm"] = 0.0
    assert figure2.draw(frame).axes[0].get_yscale() == "linear"


def test_one_section_draws_and_claims_nothing() -> None:
    for section in ("Reasoning", "Chat"):
        figure = figure2.draw(gradients(UNTRAINED, {section: 1.0}))
        assert "nothing to compare" in figure.get_suptitle()
        assert "one section only" in figure.axes[0].get_title(loc="left")


def test_collect_checks_its_file(tmp_path: Path) -> None:
    frame = gradients({"normbt": 3, "untrained": 1, "bt": 3}).replace(
        {"section": {"Chat Hard": "chat_hard"}}
    )
    frame.assign(extra=1).to_csv(tmp_path / "gradients.csv", index=False)
    found = figure2.collect(tmp_path)
    assert list(found) == figure2.COLUMNS and len(found) == 12  # the untrained backbone alone
    assert set(found["section"]) == set(style.SECTIONS)
    pd.concat([frame, frame.head(1)]).to_csv(tmp_path / "gradients.csv", index=False)
    with pytest.raises(InputError, match="more than one row"):
        figure2.collect(tmp_path)
    frame.head(0).to_csv(tmp_path / "gradients.csv", index=False)
    with pytest.raises(InputError, match="no rows"):
        figure2.collect(tmp_path)
    with pytest.raises(InputError, match="no rows"):
        figure2.draw(frame.head(0))
