"""How long a command takes to start: python -m benchmarks.start.

Processes: an empty one, one that composes a configuration, `scripts.train --help`, a misspelt key,
and the imports of a training run and of their largest parts. Interleaved; medians of wall seconds
in results/benchmarks/start.csv.
"""

from __future__ import annotations

import subprocess
import sys

from benchmarks.common import RESULTS, interleave, machine, write

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


def main() -> None:
    """Start every process in turn, five times, and write the table."""
    ways = {
        name: lambda words=words: subprocess.run([sys.executable, *words], capture_output=True)
        for name, words in PROCESSES.items()
    }
    found = interleave(ways, rounds=5, label="start").drop(columns="cpu_s").assign(**machine())
    write(found, RESULTS / "start.csv", key=["way"])


if __name__ == "__main__":
    main()
