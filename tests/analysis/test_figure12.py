"""Figure 12 from hand-made outcomes."""

from pathlib import Path

import pandas as pd
import pytest
from matplotlib.axes import Axes

from analysis import figure12, table1
from analysis.tables import AbsentError
from rm.errors import InputError
from tests.analysis.test_table1 import SECTIONS, collected, scores

RIGHT = {
    "bt": {"Chat": 20, "Reasoning": 10},
    "normbt": {"Chat": 20, "Reasoning": 30},
    "hinge": {"Chat": 4, "Reasoning": 10},
    "normbt_cap": {"Chat": 21, "Reasoning": 10},
}
"""Of 40 pairs of each of the two sections."""
CELLS = ["reasoning_holm", "average_holm"]


@pytest.fixture
def frame(tmp_path: Path) -> pd.DataFrame:
    rows = scores(RIGHT, pairs=40)
    return collected(tmp_path, rows[rows["section"].isin(["Chat", "Reasoning"])])


def drawn(axes: Axes) -> dict[tuple[float, float], tuple[float, float, bool]]:
    """(centre, place from the top) of every point → low, high, whether its marker is filled."""
    found = {}
    for bar in axes.containers:
        line, spans = bar.lines[0], bar.lines[2][0].get_segments()
        for x, y, span in zip(line.get_xdata(), line.get_ydata(), spans, strict=True):
            filled = line.get_markerfacecolor() != "white"
            found[round(float(x), 6), -float(y)] = (*map(float, span[:, 0]), filled)
    return found


@pytest.mark.parametrize("kind", [False, True])
def test_few_methods_stand_together_with_table_1s_intervals(
    frame: pd.DataFrame, kind: bool
) -> None:
    table = table1.differences(frame, crossed=kind)
    figure = figure12.draw(frame, note="made", crossed=kind)
    (axes,) = figure.axes
    lines = [label.get_text() for label in axes.get_yticklabels()]
    assert lines == ["Chat", "Reasoning", "Average"]  # the two others were not measured
    points = drawn(axes)
    assert len(points) == 9
    for line, cell in enumerate(("chat", "reasoning", "average")):
        near = [(x, y) for x, y in points if abs(y - line) < 0.5]
        near.sort(key=lambda point: point[1])  # top to bottom: the table's order
        for point, (_, row) in zip(near, table.iterrows(), strict=True):
            low, high, filled = points[point]
            assert (point[0], low, high) == pytest.approx(
                (row[cell], row[f"{cell}_low"], row[f"{cell}_high"])
            )
            assert filled == (low > 0 or high < 0)
    assert not axes.texts  # † only where many are compared
    kinds = "95% interval for new seeds and test pairs" if kind else "95% bootstrap over seeds"
    assert kinds in str(figure.get_label()) and "†" not in str(figure.get_label())
    assert figure.get_supxlabel() == "made"
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["NormBT", "hinge", "NormBT with capped weights"]


def test_of_many_methods_the_variants_stand_above_and_the_rest_apart(tmp_path: Path) -> None:
    names = ("bt", "normbt", "bt_margin", "normbt_margin", "normbt_cap", "category_weights", "clip")
    rows = scores({name: {"Reasoning": 38 if name == "clip" else 20} for name in names}, pairs=40)
    made = collected(tmp_path, rows)
    figure = figure12.draw(made)
    above, below = figure.axes
    assert [label.get_text() for label in above.get_yticklabels()] == [*SECTIONS, "Average"]
    assert sorted(y for _, y in drawn(above)) == pytest.approx(
        sorted(line + shift for line in range(5) for shift in (-0.2, 0.2))
    )
    lines = [label.get_text().replace("\n", " ") for label in below.get_yticklabels()]
    assert len(lines) == 3 and "NormBT with capped weights" in lines
    holm = table1.adjusted(table1.differences(made)).set_index("method")
    clear = (holm.loc[["normbt_cap", "category_weights", "clip"], CELLS] < 0.05).to_numpy().sum()
    assert [text.get_text() for text in below.texts] == ["†"] * clear and clear
    assert not above.texts and "† : p" in str(figure.get_label()).replace("†:", "† :")
    assert figure12.split(["hinge", "clip", "bsr", "grm", "mlp"])[1] == []  # no variant


def test_generated_and_real_stand_side_by_side(frame: pd.DataFrame) -> None:
    both = pd.concat([frame, frame.assign(benchmark="real")])
    figure = figure12.draw(both)
    left, right = figure.axes
    assert left.get_title() == "tiny · made · generated" and right.get_title().endswith(
        "made · real"
    )
    assert drawn(left).keys() == drawn(right).keys()
    named = figure12.draw(both, names={("tiny", "made", "real"): "Real pairs"})
    assert [axes.get_title() for axes in named.axes] == [left.get_title(), "Real pairs"]
    assert figure.get_suptitle() == "NormBT − BT, Reasoning: +50.0, +50.0 points"
    cut = both.assign(truncated=(both["benchmark"] == "real") & (both["section"] == "Chat"))
    number = cut.loc[cut["benchmark"] == "real", "pair_id"].nunique()
    assert f" of {number} test pairs are truncated (Chat 100%)." in str(
        figure12.draw(cut).get_label()
    )


def test_panels_and_the_titles_gains_are_in_the_order_of_the_rows(
    frame: pd.DataFrame,
) -> None:
    equal = frame.assign(backbone="a", correct=0 * frame["correct"])
    figure = figure12.draw(pd.concat([frame, equal]))
    names = [axes.get_title().split(" · ")[0] for axes in figure.axes]
    assert names == ["tiny", "a"]
    assert figure.get_suptitle() == "NormBT − BT, Reasoning: +50.0, 0.0 points"


def test_the_title_states_normbts_gain_with_its_interval(frame: pd.DataFrame) -> None:
    title = figure12.draw(frame, crossed=True).get_suptitle()
    assert title.startswith("NormBT − BT: Reasoning +50.0 [+") and len(title.split()) <= 12
    few = "fewer than 5 seeds read the wider"
    assert few in str(figure12.draw(frame, crossed=True).get_label())
    assert few not in str(figure12.draw(frame).get_label())
    rivals = frame[frame["method"] != "normbt"]
    assert figure12.draw(rivals).get_suptitle() == "Each method minus its base loss, by section"


def test_a_label_names_a_base_that_it_does_not_say(tmp_path: Path) -> None:
    made = scores({name: {} for name in ("bt", "mlp", "normbt_mlp", "bt_margin", "normbt_margin")})
    table = table1.adjusted(table1.differences(collected(tmp_path, made)))
    assert figure12.named(figure12.tidy(table)) == {
        "normbt_margin": "NormBT + margin",
        "mlp": "BT, MLP head",
        "normbt_mlp": "NormBT with an MLP head − BT, MLP head",
    }


def test_methods_without_a_base_are_no_figure(frame: pd.DataFrame) -> None:
    with pytest.raises(AbsentError, match="no method was run beside its base loss"):
        figure12.draw(frame[frame["method"] == "bt"])
    with pytest.raises(InputError, match="table 1's data"):
        figure12.draw(frame.drop(columns="correct"))
