"""Figure 9 from gradients whose cosines are known."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import figure9
from rm.errors import InputError

Vectors = dict[str, tuple[str, list[float]]]

FOUR: Vectors = {
    "a": ("Chat", [1.0, 0.0]),
    "b": ("Chat", [2.0, 0.0]),
    "c": ("Reasoning", [0.0, 1.0]),
    "d": ("Reasoning", [0.0, 3.0]),
}


def write(folder: Path, vectors: Vectors, methods: tuple[str, ...] = ("bt",)) -> None:
    """Files of gradients: the error is 0.5, so a gradient distance is twice the vector's length."""
    keys = [{"method": method, "seed": 0} for method in methods]
    lengths = {name: float(np.linalg.norm(v)) for name, (_, v) in vectors.items()}
    pairs = [
        {
            **key,
            **{"pair_id": name, "section": section, "distance": lengths[name], "error": 0.5},
            "gradient_distance": 2 * lengths[name],
        }
        for key in keys
        for name, (section, _) in vectors.items()
    ]
    angles = [
        {
            **key,
            **{"pair_a": a, "pair_b": b, "error": 0.001},
            "cosine": float(np.dot(vectors[a][1], vectors[b][1])) / (lengths[a] * lengths[b]),
        }
        for key in keys
        for a, b in itertools.combinations(vectors, 2)
    ]
    pd.DataFrame(pairs).to_csv(folder / "gradients.csv", index=False)
    pd.DataFrame(angles).to_parquet(folder / "directions.parquet")


def test_collect_joins_both_sides(tmp_path: Path) -> None:
    write(tmp_path, FOUR)
    frame = figure9.collect(tmp_path)
    assert list(frame) == figure9.COLUMNS and len(frame) == 6
    row = frame.set_index(["pair_a", "pair_b"]).loc[("b", "d")]
    assert (row["section_a"], row["section_b"]) == ("Chat", "Reasoning")
    assert (row["norm_a"], row["norm_b"]) == (2.0, 3.0) and row["cosine"] == 0


def test_means_by_category_and_their_difference(tmp_path: Path) -> None:
    write(tmp_path, FOUR)
    frame = figure9.collect(tmp_path)
    table = figure9.by_category(frame).set_index(["section_a", "section_b"])["cosine"]
    assert table["Chat", "Chat"] == table["Reasoning", "Reasoning"] == 1
    assert table["Chat", "Reasoning"] == table["Reasoning", "Chat"] == 0
    found = figure9.difference(frame)
    assert (found["within"], found["across"], found["difference"]) == (1, 0, 1)
    assert (found["difference_low"], found["difference_high"]) == (1, 1)


def test_alignment_is_with_the_sum_of_the_others(tmp_path: Path) -> None:
    write(tmp_path, FOUR)
    aligned = figure9.alignment(figure9.collect(tmp_path)).set_index("pair_id")["cosine"]
    # a against b + c + d = (2, 4); d against a + b + c = (3, 1)
    assert aligned["a"] == pytest.approx(2 / np.sqrt(20))
    assert aligned["d"] == pytest.approx(1 / np.sqrt(10))


def test_opposite_gradients_and_copies_in_a_resample() -> None:
    table = np.array([[1.0, -1.0], [-1.0, 1.0]])
    off = ~np.eye(2, dtype=bool)
    assert figure9.weighted_mean(np.array([[1.0, 1.0], [2.0, 1.0]]), table, off) == (
        pytest.approx([-1, -1])
    )
    assert np.isnan(figure9.weighted_mean(np.array([[2.0, 0.0]]), table, off)).all()


def test_draw_prints_cosines_and_how_exact_they_are(tmp_path: Path) -> None:
    write(tmp_path, FOUR, ("untrained", "bt"))
    figure = figure9.draw(figure9.collect(tmp_path), note="n")
    assert [t.get_text() for t in figure.axes[0].texts] == ["+1.00", "0.00", "0.00", "+1.00"]
    title = "Mean gradient cosine after BT training: +1.00 within sections, 0.00 across"
    assert figure.get_suptitle() == title
    assert "by random projection (error ≤ 0.0010)" in str(figure.get_label())
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["Chat", "Reasoning"]
    assert "within − across +1.00 [+1.00, +1.00]" in figure.axes[0].get_title()


def test_one_category_draws_and_compares_nothing(tmp_path: Path) -> None:
    write(tmp_path, {name: ("Chat", v) for name, (_, v) in FOUR.items()})
    figure = figure9.draw(figure9.collect(tmp_path))
    assert figure.get_suptitle().endswith(": +0.33; one section only")
    assert "one section only" in figure.axes[0].get_title()


def test_collect_checks_its_files(tmp_path: Path) -> None:
    write(tmp_path, FOUR)
    frame = figure9.collect(tmp_path)
    gradients = pd.read_csv(tmp_path / "gradients.csv")
    gradients.head(3).to_csv(tmp_path / "gradients.csv", index=False)
    with pytest.raises(InputError, match="different pairs"):
        figure9.collect(tmp_path)
    (tmp_path / "directions.parquet").unlink()
    with pytest.raises(InputError, match=r"directions\.parquet is missing"):
        figure9.collect(tmp_path)
    with pytest.raises(InputError, match="no rows"):
        figure9.draw(frame.head(0))
