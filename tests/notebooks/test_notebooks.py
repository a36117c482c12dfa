"""The notebooks: stored without outputs, run to their end on smoke results."""

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
NAMES = ("reproduce_figures", "explore_pairs", "normbt_in_your_trainer")


def read(name: str) -> dict:
    return json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())


def run(name: str, monkeypatch: pytest.MonkeyPatch, results: Path | None = None) -> list[str]:
    """Run a notebook; return what its code cells printed or showed as text."""
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    if results is not None:
        monkeypatch.setenv("NORMBT_RESULTS", str(results))
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    client = nbclient.NotebookClient(
        notebook,
        timeout=120,
        resources={"metadata": {"path": str(NOTEBOOKS)}},
        coalesce_streams=True,  # what a cell prints may come in any number of pieces
    )
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    return [output["text"] if "text" in output else " ".join(output["data"]) for output in outputs]


def test_all_are_tested_and_stored_without_outputs() -> None:
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(NAMES)
    for name in NAMES:
        for cell in read(name)["cells"]:
            if cell["cell_type"] == "code":
                assert cell["outputs"] == [] and cell["execution_count"] is None
            assert "".join(cell["source"]).strip()


def test_reproduce_figures(smoke_results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = run("reproduce_figures", monkeypatch, smoke_results)
    assert "tiny-llama" in outputs[0]
    assert sum("image/png" in output for output in outputs) == 11
    assert [output.split(" is not drawn")[0] for output in outputs if "not drawn" in output] == [
        "figure11"
    ]


def test_explore_pairs(smoke_results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = run("explore_pairs", monkeypatch, smoke_results)
    assert outputs[0].startswith("80 pairs, bt against normbt")
    assert sum("CHOSEN\n" in output and "REJECTED\n" in output for output in outputs) >= 2


def test_normbt_in_your_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = run("normbt_in_your_trainer", monkeypatch)[-1].splitlines()
    losses = {line.split()[0]: [float(word) for word in line.split()[3::3]] for line in lines}
    assert set(losses) == {"BT", "NormBT"}
    assert losses["NormBT"][0] < losses["BT"][0]  # the close pairs of the toy are learnt sooner
