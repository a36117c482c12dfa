"""Table 3 from a hand-made manifest."""

import json
from pathlib import Path

import pandas as pd
import pytest

from analysis import table3
from rm.errors import InputError


def run(method: str, weight: dict[str, float]) -> dict:
    return {
        **{"method": method, "seed": 1, "steps": 75, "seconds": 61.5},
        "tokens": {"pairs": 1200, "tokens": 200_000},
        "environment": {"cpus": 2, "accelerators": []},
        "config": {
            "model": {"name": "tiny"},
            "data": {"name": "made"},
            "loss": {"weight": weight},
            "training": {"learning_rate": 3e-4, "epochs": 1, "part": "full"},
        },
    }


def test_a_row_a_run_with_small_numbers_kept(tmp_path: Path) -> None:
    runs = [run("bt", {}), run("normbt", {"beta": 0.9, "epsilon": 1e-6})]
    (tmp_path / "manifest.json").write_text(json.dumps({"runs": runs}))
    paths = table3.write(tmp_path, tmp_path / "out", "n")
    table = pd.read_csv(paths[0]).set_index("method")
    assert table.loc["normbt", ["beta", "epsilon"]].tolist() == [0.9, 1e-6]
    assert pd.isna(table.loc["bt", "beta"]) and pd.isna(table.loc["bt", "optimizer"])
    assert (table["learning_rate"] == 3e-4).all() and (table["seconds"] == 61.5).all()
    text = paths[1].read_text()
    assert "| NormBT | 1 | tiny | made | 0.9 | 1e-06 | full |" in text
    assert "0.0003" in text and "2 CPUs" in text


@pytest.mark.parametrize("text", ["{", "{}", '{"runs": [{}]}', '{"runs": []}', None])
def test_an_unusable_manifest_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=r"manifest\.json"):
        table3.collect(tmp_path)
