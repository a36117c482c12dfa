"""Figure 1 from hand-made pairs."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import figure1, style
from analysis.tables import TEXTS, AbsentError
from rm.errors import InputError


def gradients(distances: list[float], errors: list[float]) -> pd.DataFrame:
    """BT's update is ten times error × distance; the weight is 2 / distance."""
    return pd.DataFrame(
        {
            "method": "untrained",
            "seed": 0,
            "pair_id": [f"p{i}" for i in range(len(distances))],
            "section": "chat_hard",
            "distance": distances,
            "error": errors,
            "gradient_norm": [10 * e * d for e, d in zip(errors, distances, strict=True)],
            "weight": [2 / d for d in distances],
        }
    )


def texts(count: int, text: str = "words") -> pd.DataFrame:
    names = {name: text for name in TEXTS}
    return pd.DataFrame([{"pair_id": f"p{i}", **names} for i in range(count)])


def write(folder: Path, frame: pd.DataFrame, pairs: pd.DataFrame) -> None:
    frame.to_csv(folder / "gradients.csv", index=False)
    pairs.to_parquet(folder / "pairs.parquet")


EIGHT = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
ERRORS = [0.9, 0.5, 0.1, 0.1, 0.1, 0.1, 0.52, 0.7]


def test_the_two_pairs_of_most_equal_error_are_chosen(tmp_path: Path) -> None:
    write(tmp_path, gradients(EIGHT, ERRORS), texts(8))
    frame = figure1.collect(tmp_path)
    assert list(frame) == figure1.COLUMNS and set(frame["section"]) == {"Chat Hard"}
    close, far = figure1.choose(frame)
    assert (close["pair_id"], far["pair_id"]) == ("p0", "p7")  # the larger errors of each quarter
    assert close["update_bt"] == pytest.approx(9) and far["update_bt"] == pytest.approx(56)
    assert close["update_normbt"] == pytest.approx(18) and far["update_normbt"] == pytest.approx(14)


def test_verdict_and_picture_say_the_numbers(tmp_path: Path) -> None:
    write(tmp_path, gradients([1.0, 4.0], [0.5, 0.5]), texts(2))
    figure = figure1.draw(figure1.collect(tmp_path), note="n")
    assert figure.get_suptitle() == "At equal error, the far pair gets 4.0 times the BT update"
    assert "Two of 2 pairs, untrained backbone" in str(figure.get_label())
    assert [axes.get_title(loc="left") for axes in figure.axes[:2]] == [
        f"{name} pair · Chat Hard · prediction error 0.50" for name in ("Close", "Far")
    ]
    values = [text.get_text() for text in figure.axes[2].texts]
    assert values == ["1.00", "5.00", "10.0"]
    close, far = ([bar.get_width() for bar in axes.patches] for axes in figure.axes[2:4])
    lengths = np.array([close[1:], far[1:]]).ravel()  # of BT's and NormBT's updates: one scale
    assert lengths / lengths[0] == pytest.approx([1, 2, 4, 2])


def test_hostile_texts_are_shown_as_they_are(tmp_path: Path) -> None:
    write(tmp_path, gradients([1.0, 4.0], [0.5, 0.5]), texts(2, "$\\frac{1$ <b> 漢\n\nnext " * 40))
    figure = figure1.draw(figure1.collect(tmp_path))
    style.write_figure(figure, tmp_path / "f")
    shown = "\n".join(t.get_text() for t in figure.axes[0].texts)
    assert "$\\frac{1$ <b> □ ⏎ next" in shown.replace("\n", " ") and "…" in shown
    assert all(len(line) <= figure1.WRAP for line in shown.split("\n"))
    assert figure1.shortened("", 10) == ["(empty)"]


def test_what_cannot_be_shown_is_refused(tmp_path: Path) -> None:
    write(tmp_path, gradients([1.0, 1.0], [0.5, 0.5]), texts(2))
    with pytest.raises(InputError, match="two pairs of unlike distance"):
        figure1.draw(figure1.collect(tmp_path))
    write(tmp_path, gradients(EIGHT, ERRORS), texts(7))
    with pytest.raises(InputError, match="no texts for 1 of the pairs, first p7"):
        figure1.collect(tmp_path)
    write(tmp_path, gradients(EIGHT, ERRORS), texts(8).drop(columns=TEXTS))
    with pytest.raises(AbsentError, match="texts of the pairs were left out"):
        figure1.collect(tmp_path)
    write(tmp_path, gradients(EIGHT, ERRORS), texts(8).drop(columns="chosen"))
    with pytest.raises(InputError, match="lacks the columns chosen"):
        figure1.collect(tmp_path)
    with pytest.raises(InputError, match="no rows"):
        figure1.draw(pd.DataFrame(columns=figure1.COLUMNS))
