"""What a rank tells the other ranks and its command: how it ended, and that all see one folder.

Records lie in <run>/ranks while the ranks run: rank<k>.json (rank, node, host, state, error) and,
for all but rank 0, rank<k>.log with its output. All machines share that folder. Torchrun's own
error files cover one machine and have times in seconds; DeepSpeed's launcher has no such files.

Ranks outlive either launcher if it is killed. So the ranks of a machine wait on a named pipe that
their command holds open: they end with it, however it ends, and no orphan writes into a folder
that a new command has taken.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch.distributed import PrefixStore, Store, rendezvous

from pipeline.launch.terminal import where_output_is
from rm.errors import InputError, InterruptedRunError
from rm.files import atomic_write_json

FOLDER = "ranks"
LIFELINE = "NORMBT_LIFELINE"
"""Environment variable: the pipe that ends when the command does."""
MEET_MINUTES = 15
"""How long ranks wait for one another at their start."""
SEE_SECONDS = 20
"""How long a new file may take to appear on another machine."""


@contextlib.contextmanager
def lifeline() -> Iterator[dict[str, str]]:
    """In the command: environment that lets the ranks of this machine live as long as the block."""
    with tempfile.TemporaryDirectory() as folder:
        pipe = Path(folder) / "alive"
        os.mkfifo(pipe)
        handle = os.open(pipe, os.O_RDWR)  # for reading too, or it would wait for a reader
        try:
            yield {LIFELINE: str(pipe)}
        finally:
            os.close(handle)


def place() -> tuple[int, int]:
    """In a rank, all on one machine: its number and how many there are. Its own GPU is taken."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if torch.cuda.is_available():
        torch.cuda.set_device(rank)
    return rank, size


def _end_with_the_command() -> None:
    """In a rank on the command's machine: end when the command ends (a thread waits for it)."""
    pipe = os.environ.get(LIFELINE)
    if pipe is None or not Path(pipe).exists():
        return
    handle = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(handle, True)

    def wait() -> None:
        os.read(handle, 1)  # nothing is ever written: this returns when the command is gone
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def noted(folder: Path) -> Iterator[None]:
    """Note in `folder` how this rank ends; all but rank 0 write their output there too."""
    rank = int(os.environ["RANK"])
    _end_with_the_command()
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    if rank > 0:
        _print_to(_log(folder, rank))
    note(folder, "running")
    _note_when_stopped(folder)
    try:
        yield
    except BaseException as error:
        note(folder, "failed", f"{type(error).__name__}: {error}")
        raise
    note(folder, "done")


def leave() -> NoReturn:
    """End a rank whose work is done, without the interpreter's shutdown.

    During shutdown, threads of libraries may use objects that are gone and abort the process. The
    run would count as failed although all its files are complete.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def note(folder: Path, state: str, error: str = "") -> None:
    """Write this rank's record: running, done, failed (with its error) or stopped from outside."""
    rank = int(os.environ["RANK"])
    # torchrun names the machine GROUP_RANK, DeepSpeed's launcher CROSS_RANK.
    node = int(os.environ.get("GROUP_RANK", os.environ.get("CROSS_RANK", "0")))
    facts = {"rank": rank, "node": node, "host": socket.gethostname()}
    atomic_write_json(_record(folder, rank), {**facts, "state": state, "error": error})


def _record(folder: Path, rank: int) -> Path:
    return folder / FOLDER / f"rank{rank}.json"


def _log(folder: Path, rank: int) -> Path:
    return folder / FOLDER / f"rank{rank}.log"


def _print_to(path: Path) -> None:
    """Send this process's output to a file, that of libraries and of a crash included."""
    with path.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _note_when_stopped(folder: Path) -> None:
    """On SIGTERM, note that this rank was stopped from outside, and end.

    A rank that waits in a collective runs no Python handler; a thread that the signal wakes does.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda *_: None)

    def wait() -> None:
        while os.read(reader, 1)[0] != signal.SIGTERM:
            pass
        note(folder, "stopped")
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def meet(folder: Path, settings: str) -> Store:
    """Let all ranks of a run meet; return the store, which rank 0 has to keep until it ends.

    `settings`: fingerprint of the configuration that this rank was started with. Raises InputError
    on every rank if one does not see rank 0's `folder` or was started with other settings.
    """
    store, rank, size = next(rendezvous("env://", timeout=timedelta(minutes=MEET_MINUTES)))
    board = PrefixStore("normbt", store)
    if rank == 0:
        token = secrets.token_hex(8)
        (folder / FOLDER / f".{token}").touch()
        board.set("token", token)
        board.set("settings", settings)
    problem = _problem(folder, board, settings)
    board.set(f"problem{rank}", problem)
    problems = {board.get(f"problem{other}").decode() for other in range(size)} - {""}
    board.add("read", 1)
    while rank == 0 and board.add("read", 0) < size:  # the store may end with this process
        time.sleep(0.05)
    if problems:
        raise InputError("; ".join(sorted(problems)))
    return store


def _problem(folder: Path, board: Store, settings: str) -> str:
    """Why this rank cannot take part; empty if it can."""
    host, token = socket.gethostname(), board.get("token").decode()
    if not _is_seen(folder / FOLDER / f".{token}"):
        return (
            f"{host} does not see the files of rank 0 in {folder}: give a run_dir on a file "
            "system that all machines share"
        )
    if settings != board.get("settings").decode():
        return f"the command on {host} has other settings than on machine 0: make them equal"
    return ""


def _is_seen(path: Path) -> bool:
    """Whether a new file exists, or appears within SEE_SECONDS."""
    end = time.monotonic() + SEE_SECONDS
    while not path.exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.5)
    return True


def clear(folder: Path) -> None:
    """Remove the records and logs of the ranks."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


def records(folder: Path) -> list[dict[str, Any]]:
    """Records of the ranks, in the order in which they were written; [] without any."""
    found = []
    for path in (folder / FOLDER).glob("rank*.json"):
        with contextlib.suppress(FileNotFoundError):  # machine 0 has just cleared it
            found.append((path.stat().st_mtime_ns, path.name, path.read_text()))
    return [json.loads(text) for _, _, text in sorted(found)]


def any_failed(folder: Path) -> bool:
    """Whether a rank is known to have failed."""
    return any(record["state"] in ("failed", "killed") for record in records(folder))


def note_killed(folder: Path, ended: Callable[[int], bool]) -> None:
    """Mark ranks that ended without a record, on machines where all ranks have ended."""
    for record in records(folder):
        if record["state"] == "running" and ended(record["node"]):
            atomic_write_json(_record(folder, record["rank"]), {**record, "state": "killed"})


def failure(folder: Path, status: int) -> Exception:
    """What to raise after a launcher ended with `status`: it names the rank that failed first.

    A killed rank is named before failed ones, which may have failed because it was gone.
    """
    found = records(folder)
    killed = [record for record in found if record["state"] == "killed"]
    failed = [record for record in found if record["state"] == "failed"]
    wrong = [record["error"] for record in failed if record["error"].startswith("InputError: ")]
    if wrong:
        return InputError(wrong[0].removeprefix("InputError: "))
    if not killed and not failed:
        return InterruptedRunError(
            f"{folder}: the ranks ended with status {status}: see {where_output_is()}"
        )
    first = (killed + failed)[0]
    what = first["error"] or "was killed (out of memory, or a signal from outside)"
    log = _log(folder, first["rank"])
    where = f"see {log if log.is_file() else where_output_is()}"
    after = "; the same command resumes from what is finished" if killed else ""
    return InterruptedRunError(
        f"{folder}: rank {first['rank']} on {first['host']}: {what}; {where}{after}"
    )
