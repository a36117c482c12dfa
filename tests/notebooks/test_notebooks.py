"""The notebooks: stored with outputs of the committed results, and run to the end on smoke ones."""

import json
import re
from pathlib import Path

import nbformat
import pytest

from tests.notebooks.run import NOTEBOOKS, run

RESULTS = NOTEBOOKS.parent / "results" / "cpu"
NAMES = ("reproduce_figures", "explore_pairs", "normbt_in_your_trainer")


def outputs_of(notebook: nbformat.NotebookNode) -> list[str]:
    """Return what the code cells printed or showed as text; none wrote to stderr or failed."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert not [output for output in outputs if output["output_type"] == "error"]
    return [output["text"] if "text" in output else " ".join(output["data"]) for output in outputs]


def stored(name: str) -> list[str]:
    """Return the outputs that are committed."""
    return outputs_of(nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4))


def rerun(name: str, monkeypatch: pytest.MonkeyPatch, results: Path | None = None) -> list[str]:
    """Run a notebook and return its outputs."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    if results is not None:
        monkeypatch.setenv("NORMBT_RESULTS", str(results))
    return outputs_of(run(NOTEBOOKS / f"{name}.ipynb"))


def test_all_are_tested_and_stored_as_run_from_top_to_bottom() -> None:
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(NAMES)
    for name in NAMES:
        cells = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]
        counts = [cell["execution_count"] for cell in cells if cell["cell_type"] == "code"]
        assert counts == [*range(1, len(counts) + 1)]
        assert all("".join(cell["source"]).strip() for cell in cells)
        assert stored(name)
        assert not re.search(r"(?<![\w.])/\S*/(?:results|runs)/", " ".join(stored(name)))


def test_stored_figures_are_those_of_the_committed_results() -> None:
    outputs = stored("reproduce_figures")
    assert outputs[0].strip() == json.loads((RESULTS / "manifest.json").read_text())["label"]
    index = json.loads((RESULTS / "figures" / "index.json").read_text())
    drawn = [one for one in index if one["name"].startswith("figure") and one["caption"]]
    assert sum("image/png" in output for output in outputs) == len(drawn) > 5
    texts = " ".join(outputs)
    assert [one["name"] for one in drawn if one["caption"] not in texts] == []


@pytest.mark.slow
def test_reproduce_figures(smoke_results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = rerun("reproduce_figures", monkeypatch, smoke_results)
    assert "tiny-llama" in outputs[0]
    assert sum("image/png" in output for output in outputs) == 11
    assert [output.split(" is not drawn")[0] for output in outputs if "not drawn" in output] == [
        "figure11"
    ]


@pytest.mark.slow
def test_explore_pairs(smoke_results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = rerun("explore_pairs", monkeypatch, smoke_results)
    assert outputs[0].startswith("84 pairs, bt against normbt")
    assert sum("CHOSEN\n" in output and "REJECTED\n" in output for output in outputs) >= 2


@pytest.mark.slow
def test_normbt_in_your_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = rerun("normbt_in_your_trainer", monkeypatch)[-1].splitlines()
    losses = {line.split()[0]: [float(word) for word in line.split()[3::3]] for line in lines}
    assert set(losses) == {"BT", "NormBT"}
    assert losses["NormBT"][0] < losses["BT"][0]  # the close pairs of the toy are learnt sooner
