"""Jobs in processes of their own: all are done, one error ends all, none outlives the command."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from pipeline.experiments import runs
from pipeline.experiments.measure import Run
from pipeline.launch.side_by_side import Job, run_all
from pipeline.launch.terminal import Screen
from pipeline.run import run_folder
from pipeline.settings.configuration import CONF, compose_config
from rm.errors import InputError, InterruptedRunError
from rm.provenance import usable_cores

pytestmark = pytest.mark.slow


def write_threads(path: Path) -> None:
    path.write_text(str(torch.get_num_threads()))


def write_process(path: Path) -> None:
    path.write_text(str(os.getpid()))


def refuse(message: str) -> None:
    raise InputError(message)


def sleep(path: Path) -> None:
    path.write_text(str(os.getpid()))
    time.sleep(60)


def fail_as_nobody_expects() -> None:
    raise KeyError("a name")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_every_job_is_done_with_its_share_of_the_cores(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(3)]
    run_all([Job(p.name, write_threads, (p,)) for p in paths], 2, tmp_path / "log")
    share = str(max(1, usable_cores() // 2))
    assert [path.read_text() for path in paths] == [share] * 3


def test_what_runs_share_is_prepared_in_a_stage_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the time left is computed from the rate of the frozen layers, which run once."""
    prepared: list[str] = []
    monkeypatch.setattr(runs, "prepare", lambda one: prepared.append(Path(one.run_dir).name))
    words = ["profile=smoke", f"runs_dir={tmp_path}"]
    folders = [tmp_path / name for name in ("trained", "new", "newer")]
    folders[0].mkdir()
    (folders[0] / "manifest.json").write_text("{}")
    configs = [
        compose_config("train", ["profile=smoke", f"run_dir={folder}"]) for folder in folders
    ]
    jobs = [Job(one.name, write_threads, (tmp_path / f"{one.name}.txt",)) for one in folders]
    made = [Run("bt", number, folder) for number, folder in enumerate(folders)]
    stream = io.StringIO()
    cfg = compose_config("reproduce", [*words, "workers=2"])
    runs.do_all(cfg, Screen(stream, live=False), "train", jobs, made, configs)
    assert prepared == ["new"]
    begins = [line.removesuffix(" …") for line in stream.getvalue().splitlines() if "…" in line]
    assert begins == ["prepare backbone, tokens and frozen layers", "train"]


def test_a_run_counts_by_its_steps(tmp_path: Path) -> None:
    """Else a sweep over numbers of pairs would tell the time left from its short runs alone."""
    made = [Run("bt", number, tmp_path / str(number)) for number in range(2)]
    made[0].scores.mkdir(parents=True)
    (made[0].scores / "manifest.json").write_text("{}")
    assert runs.progress(made, [10, 30]) == (0.25, "run 2 of 2")
    assert runs.progress(made, [None, None]) == (0.5, "run 2 of 2")


def test_a_finished_run_is_checked_in_this_process_and_a_stale_one_is_not(tmp_path: Path) -> None:
    """A process takes seconds to start, which a call that has nothing to do would pay per run."""
    words = ["profile=smoke", f"runs_dir={tmp_path}", "workers=2"]
    made = [Run("bt", number, tmp_path / name) for number, name in enumerate(("same", "other"))]
    configs = []
    for run, pairs in zip(made, (16, 24), strict=True):
        one = compose_config("train", ["profile=smoke", f"run_dir={run.folder}"])
        one.data.train_pairs = 16
        run_folder.claim_run_dir(one, run.folder)
        (run.folder / "manifest.json").write_text("{}")
        run.scores.mkdir()
        (run.scores / "manifest.json").write_text("{}")
        configs.append(compose_config("train", [*words[:1], f"run_dir={run.folder}"]))
        configs[-1].data.train_pairs = pairs
    jobs = [Job(run.folder.name, write_process, (tmp_path / str(run.seed),)) for run in made]
    cfg, shown = compose_config("reproduce", words), io.StringIO()
    runs.do_all(cfg, Screen(shown, live=False), "train", jobs, made, configs)
    named = f"out of date, to be retrained: 1 run in {tmp_path} (data.train_pairs: 24 ≠ 16"
    assert shown.getvalue().startswith(named)
    here = [(tmp_path / str(run.seed)).read_text() == str(os.getpid()) for run in made]
    assert here == [True, False]


def test_an_error_ends_the_other_jobs_and_is_raised_as_it_is(tmp_path: Path) -> None:
    started, log = time.monotonic(), tmp_path / "log"
    jobs = [Job("long", sleep, (tmp_path / "pid",)), Job("bad", refuse, ("give another file",))]
    with pytest.raises(InputError, match=r"^give another file$"):
        run_all(jobs, 2, log)
    assert time.monotonic() - started < 50
    assert not (tmp_path / "pid").exists() or not psutil.pid_exists(
        int((tmp_path / "pid").read_text())
    )


@pytest.mark.parametrize(
    ("work", "message"),
    [(fail_as_nobody_expects, r"one: KeyError: 'a name'; see .*log"), (die, "one: was killed")],
)
def test_an_error_of_another_kind_names_the_job_and_the_log(
    tmp_path: Path, work: object, message: str
) -> None:
    log = tmp_path / "log"
    with pytest.raises(InterruptedRunError, match=message):
        run_all([Job("one", work, ())], 1, log)  # type: ignore[arg-type]
    assert ("Traceback" in log.read_text()) == (work is fail_as_nobody_expects)


COMMAND = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from pipeline.launch.side_by_side import Job, run_all
from tests.pipeline.test_side_by_side import sleep
if __name__ == "__main__":
    run_all([Job("long", sleep, (Path({pid!r}),))], 1, Path({log!r}))
"""


def test_a_job_ends_with_its_command(tmp_path: Path) -> None:
    pid, script = tmp_path / "pid", tmp_path / "command.py"
    words = {"root": str(CONF.parent), "pid": str(pid), "log": str(tmp_path / "log")}
    script.write_text(COMMAND.format(**words))
    command = subprocess.Popen([sys.executable, str(script)])
    wait_for(lambda: pid.exists() and pid.read_text() != "")
    command.kill()
    command.wait()
    wait_for(lambda: not psutil.pid_exists(int(pid.read_text())))


def wait_for(condition: object, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.1)
