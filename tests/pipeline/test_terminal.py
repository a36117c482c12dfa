"""What a person sees of a long command, with and without a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.launch.terminal import in_words
from pipeline.settings.configuration import CONF

COMMAND = """
import os, sys, time
from pathlib import Path
from pipeline.launch.terminal import screen
with screen(Path(sys.argv[1])) as shown:
    print("of a library")
    os.write(2, b"of C code\\n")
    shown.line("six runs")
    with shown.stage("train", lambda: (0.25, "run 3 of 6")):
        time.sleep(1.2)
print("afterwards")
"""


def command(log: Path) -> list[str]:
    return [sys.executable, "-c", COMMAND, str(log)]


def test_without_a_terminal_a_stage_is_two_lines_and_the_rest_is_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "folder/log.txt"
    done = subprocess.run(command(log), cwd=CONF.parent, capture_output=True, text=True, check=True)
    assert done.stdout == "six runs\ntrain …\ntrain: 1 s\nafterwards\n" and done.stderr == ""
    assert log.read_text() == "of a library\nof C code\n"


@pytest.mark.parametrize("ci", ["", "1"])
def test_a_terminal_shows_progress_and_time_left_unless_ci_is_set(tmp_path: Path, ci: str) -> None:
    parent, child = pty.openpty()
    environment = {**os.environ, "CI": ci}
    log = tmp_path / "log.txt"
    done = subprocess.Popen(
        command(log), cwd=CONF.parent, stdout=child, stderr=child, env=environment
    )
    done.wait()
    os.close(child)
    shown = os.read(parent, 10_000).decode()
    assert ("train   25%" in shown and "left" in shown and "run 3 of 6" in shown) == (not ci)
    assert "train: 1 s" in shown and "of a library" not in shown


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.4, "59 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")]
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
