"""The one loader of gradients.csv."""

from pathlib import Path

import pandas as pd
import pytest

from analysis import gradients
from rm.errors import InputError


def write(folder: Path, **columns: object) -> None:
    rows = {"method": "bt", "seed": 0, "pair_id": ["007", "8"], "section": "chat_hard"}
    numbers = {"distance": [1.0, 2.0], "gradient_norm": [3.0, 4.0], "weight": [2.0, 0.5]}
    pd.DataFrame(rows | numbers | columns).to_csv(folder / "gradients.csv", index=False)


def test_columns_sections_and_updates(tmp_path: Path) -> None:
    write(tmp_path)
    wanted = [*gradients.KEYS, "section", *gradients.UPDATES.values()]
    frame = gradients.read(tmp_path, wanted)
    assert [*frame] == wanted
    assert frame["pair_id"].tolist() == ["007", "8"] and set(frame["section"]) == {"Chat Hard"}
    assert frame["update_bt"].tolist() == [3, 4] and frame["update_normbt"].tolist() == [6, 2]
    assert [*gradients.read(tmp_path, [*gradients.KEYS, "distance"])][-1] == "distance"


def test_what_is_missing_or_doubled_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is missing"):
        gradients.read(tmp_path, gradients.KEYS)
    write(tmp_path)
    with pytest.raises(InputError, match="lacks the columns error"):
        gradients.read(tmp_path, [*gradients.KEYS, "error"])
    write(tmp_path, pair_id="8")
    with pytest.raises(InputError, match="more than one row for method, seed, pair_id = bt, 0, 8"):
        gradients.read(tmp_path, gradients.KEYS)
