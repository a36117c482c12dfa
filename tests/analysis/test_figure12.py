"""Figure 12 from hand-made outcomes."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis import figure12, table1
from analysis.tables import AbsentError
from rm.errors import InputError
from tests.analysis.test_table1 import collected, scores

RIGHT = {
    "bt": {"Chat": 20, "Reasoning": 10},
    "normbt": {"Chat": 20, "Reasoning": 30},
    "hinge": {"Chat": 4, "Reasoning": 10},
    "normbt_cap": {"Chat": 21, "Reasoning": 10},
}
"""Of 40 pairs of each of the two sections."""


@pytest.fixture
def frame(tmp_path: Path) -> pd.DataFrame:
    rows = scores(RIGHT, pairs=40)
    return collected(tmp_path, rows[rows["section"].isin(["Chat", "Reasoning"])])


def panels(figure: Figure) -> dict[str, list[tuple[float, float, float, bool]]]:
    """Per panel, top to bottom: centre, low, high of each row, and whether its marker is filled."""
    found = {}
    for axes in figure.axes:
        found[axes.get_title()] = [
            (
                float(bar.lines[0].get_xdata()[0]),
                *(float(end) for end in bar.lines[2][0].get_segments()[0][:, 0]),
                bar.lines[0].get_markerfacecolor() != "white",
            )
            for bar in axes.containers
        ]
    return found


def test_every_row_of_table_1s_differences_is_drawn_with_its_interval(frame: pd.DataFrame) -> None:
    table = table1.differences(frame)
    figure = figure12.draw(frame, note="made")
    shown = panels(figure)
    assert list(shown) == ["Chat", "Reasoning", "Average"]  # the two others were not measured
    for name, rows in shown.items():
        cell = name.lower()
        wanted = table[[cell, f"{cell}_low", f"{cell}_high"]].to_numpy()
        assert np.array([row[:3] for row in rows]) == pytest.approx(wanted)
    assert table["method"].tolist() == ["normbt", "hinge", "normbt_cap"]
    assert [row[3] for row in shown["Chat"]] == [False, True, False]
    assert [row[3] for row in shown["Reasoning"]] == [True, False, False]
    marks = [[text.get_position()[1] for text in axes.texts] for axes in figure.axes]
    assert [len(places) for places in marks] == [1, 1, 2]  # those that Holm's adjustment leaves
    assert -1 < marks[0][0] < 0 < marks[1][0] < 1  # above hinge in Chat, NormBT in Reasoning
    assert "made" in figure.get_supxlabel()


def test_the_title_counts_intervals_on_one_side_of_0(frame: pd.DataFrame) -> None:
    """Reasoning: NormBT +50 points; Chat: hinge −40, the capped weights one pair, 2.5."""
    table = table1.adjusted(table1.differences(frame))
    assert figure12.verdict(table) == (
        "95% intervals that exclude zero (3 comparisons): "
        "Average 1 above, 1 below (after Holm 2); Reasoning 1 above, 0 below (after Holm 1)"
    )
    sides = pd.Series(figure12.sides(table, "chat"), index=table["method"])
    assert sides.to_dict() == {"normbt": 0, "hinge": -1, "normbt_cap": 0}


def test_a_row_names_its_base_and_its_place_where_these_differ(tmp_path: Path) -> None:
    made = scores({"bt": {}, "mlp": {}, "normbt_mlp": {}})
    assert figure12.names(table1.differences(collected(tmp_path, made))) == [
        "BT, MLP head",
        "NormBT with an MLP head\n− BT, MLP head",
    ]
    both = pd.concat([made, scores({"bt": {}, "normbt": {}}).assign(data="other")])
    assert figure12.names(table1.differences(collected(tmp_path, both)))[1:] == [
        "NormBT with an MLP head\n− BT, MLP head\nmade",
        "NormBT\nother",
    ]


def test_methods_without_a_base_are_no_figure(frame: pd.DataFrame) -> None:
    with pytest.raises(AbsentError, match="no method was run beside its base loss"):
        figure12.draw(frame[frame["method"] == "bt"])
    with pytest.raises(InputError, match="table 1's data"):
        figure12.draw(frame.drop(columns="correct"))
