"""A command and its ranks: which one was killed, and none outlives the command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rm.errors import InterruptedRunError
from scripts.config import CONF
from scripts.ranks import FOLDER, watched

RANK = """
import sys, time
from pathlib import Path
from scripts.ranks import one_of
folder, rank, does = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
with one_of(folder, rank):
    if does == "fail":
        raise ValueError("no such thing")
    time.sleep(600 if does == "wait" else 0)
"""
COMMAND = """
import subprocess, sys
from pathlib import Path
from scripts.ranks import watched
with watched(Path(sys.argv[1]), 1):
    subprocess.run([sys.executable, "-c", sys.argv[2], sys.argv[1], "0", "wait"])
"""


def start(folder: Path, rank: int, does: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", RANK, str(folder), str(rank), does]
    return subprocess.Popen(command, cwd=CONF.parent, stderr=subprocess.DEVNULL)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def has_started(folder: Path, rank: int) -> bool:
    note = folder / FOLDER / str(rank)
    return note.is_file() and note.read_text().startswith("started")


def test_ranks_that_get_through_leave_nothing(tmp_path: Path) -> None:
    with watched(tmp_path, 2):
        assert [start(tmp_path, rank, "end").wait() for rank in (0, 1)] == [0, 0]
    assert not list(tmp_path.iterdir())


def test_the_killed_rank_is_named_and_not_the_one_that_the_launcher_ended(tmp_path: Path) -> None:
    message = r"rank 1 was killed .*; the same command goes on"
    with pytest.raises(InterruptedRunError, match=message), watched(tmp_path, 2):
        ranks = [start(tmp_path, rank, "wait") for rank in (0, 1)]
        wait_for(lambda: has_started(tmp_path, 0) and has_started(tmp_path, 1))
        time.sleep(0.2)  # the handler comes after the note
        ranks[1].send_signal(signal.SIGKILL)
        ranks[0].send_signal(signal.SIGTERM)
        assert [rank.wait() for rank in ranks] == [-signal.SIGTERM, -signal.SIGKILL]


def test_a_rank_that_fails_is_named_with_its_error(tmp_path: Path) -> None:
    message = r"rank 0 failed first \(ValueError: no such thing\)"
    with pytest.raises(InterruptedRunError, match=message), watched(tmp_path, 2):
        other = start(tmp_path, 1, "wait")
        wait_for(lambda: has_started(tmp_path, 1))
        time.sleep(0.2)
        assert start(tmp_path, 0, "fail").wait() == 1
        other.terminate()
        other.wait()


def test_a_rank_that_never_started_is_named(tmp_path: Path) -> None:
    message = "rank 1 ended before it had started"
    with pytest.raises(InterruptedRunError, match=message), watched(tmp_path, 2):
        assert start(tmp_path, 0, "end").wait() == 0


def test_ranks_end_with_a_command_that_is_killed(tmp_path: Path) -> None:
    command = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(tmp_path), RANK], cwd=CONF.parent
    )
    wait_for(lambda: has_started(tmp_path, 0))
    children = Path(f"/proc/{command.pid}/task/{command.pid}/children")
    if not children.is_file():
        command.kill()
        pytest.skip("this system does not list a process's children")
    (rank,) = map(int, children.read_text().split())
    os.kill(command.pid, signal.SIGKILL)
    command.wait()
    wait_for(lambda: not Path(f"/proc/{rank}").is_dir() or _is_dead(rank))


def _is_dead(process: int) -> bool:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
