"""Run the notebooks on the committed results and keep their outputs (make notebooks)."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from rm.files import atomic_write_text

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def run(path: Path) -> NotebookNode:
    """Return the notebook with its outputs, free of anything that differs between two runs."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=120,
        record_timing=False,
        coalesce_streams=True,  # what a cell prints may come in any number of pieces
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    return notebook


if __name__ == "__main__":
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        atomic_write_text(path, nbformat.writes(run(path)) + "\n")
        print(path.relative_to(NOTEBOOKS.parent))
