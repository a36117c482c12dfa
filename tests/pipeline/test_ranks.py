"""No rank outlives the command that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.launch.ranks import lifeline
from pipeline.settings.configuration import CONF

RANK = """
import time
from pathlib import Path
from pipeline.launch.ranks import noted
with noted(Path(".")):
    time.sleep(600)
"""
COMMAND = """
import os, subprocess, sys
from pipeline.launch.ranks import lifeline
with lifeline() as line:
    environment = {**os.environ, **line, "RANK": "0"}
    rank = subprocess.Popen([sys.executable, "-c", sys.argv[1]], env=environment)
    print(rank.pid, flush=True)
    rank.wait()
"""


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def is_dead(process: int) -> bool:
    """Gone, or waiting for someone to ask how it ended."""
    stat = Path(f"/proc/{process}/stat")
    return not stat.is_file() or stat.read_text().rpartition(")")[2].split()[0] in "ZX"


def test_a_rank_ends_with_a_command_that_is_killed(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(CONF.parent)}
    command = subprocess.Popen(
        [sys.executable, "-c", COMMAND, RANK],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert command.stdout is not None
    rank = int(command.stdout.readline())
    wait_for(lambda: (tmp_path / "ranks/rank0.json").is_file())
    assert not is_dead(rank)
    os.kill(command.pid, signal.SIGKILL)
    command.wait()
    wait_for(lambda: is_dead(rank))


def test_a_lifeline_leaves_nothing() -> None:
    with lifeline() as line:
        (pipe,) = map(Path, line.values())
        assert pipe.is_fifo()
    assert not pipe.parent.exists()


def test_a_rank_that_is_done_does_not_care_what_the_interpreters_end_would_do() -> None:
    words = (
        "import atexit, os; from pipeline.launch.ranks import leave; atexit.register(os.abort); "
    )
    environment = {**os.environ, "PYTHONPATH": str(CONF.parent)}
    for last, status in (("print('done')", -signal.SIGABRT), ("print('done'); leave()", 0)):
        done = subprocess.run(
            [sys.executable, "-c", words + last], capture_output=True, text=True, env=environment
        )
        assert done.returncode == status
    assert done.stdout == "done\n"


@pytest.mark.parametrize("module", ["training_rank", "evaluation_rank"])
def test_every_rank_ends_by_leaving(module: str) -> None:
    source = (CONF.parent / f"pipeline/run/{module}.py").read_text()
    assert source.endswith("\n    ranks.leave()\n")
