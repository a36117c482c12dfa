"""How long a command takes to start.

    python -m benchmarks.start

Processes: an empty one, one that composes a configuration, `scripts.train --help`, `scripts.train`
with a misspelt key, imports of a training run and of its largest parts, and a smoke training run to
the end of its first step, with an empty cache. They are interleaved. Writes medians of wall seconds
to results/benchmarks/start.csv.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import RESULTS, interleave, machine, write
from pipeline.run.run_folder import steps_done

COMPOSE = "from pipeline.settings.configuration import compose_config; compose_config('train')"
PROCESSES = {
    "empty process": ["-c", "pass"],
    "compose a configuration": ["-c", COMPOSE],
    "scripts.train --help": ["-m", "scripts.train", "--help"],
    "scripts.train with a misspelt key": ["-m", "scripts.train", "los=bt"],
    "import torch": ["-c", "import torch"],
    "import torch, transformers.Trainer": ["-c", "import torch; from transformers import Trainer"],
    "import pipeline.run.training": ["-c", "import pipeline.run.training"],
    "import pipeline.run.evaluation": ["-c", "import pipeline.run.evaluation"],
}


def first_step() -> None:
    """Start a smoke training run, wait until its first step is recorded, and end it."""
    with tempfile.TemporaryDirectory() as folder:
        own = ["profile=smoke", f"run_dir={folder}/run", f"cache_dir={folder}/cache"]
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(
            [sys.executable, "-m", "scripts.train", *own], stdout=quiet, stderr=quiet
        )
        while not steps_done(Path(folder) / "run"):
            if process.poll():
                raise RuntimeError(f"the run failed with status {process.returncode}")
            time.sleep(0.01)
        process.terminate()
        process.wait()


def main() -> None:
    """Start every process in turn, five times, and write the table."""
    ways = {
        name: lambda words=words: subprocess.run([sys.executable, *words], capture_output=True)
        for name, words in PROCESSES.items()
    } | {"smoke training run to its first step": first_step}
    found = interleave(ways, rounds=5, label="start").drop(columns="cpu_s").assign(**machine())
    write(found, RESULTS / "start.csv", key=["way"])


if __name__ == "__main__":
    main()
