"""The project's commands in forked children: imported once, killed or hindered, started again.

A fork costs nothing where a new interpreter spends seconds on imports, and a SIGKILL ends it as it
ends any other process. What the child runs is the command's own `main`.
"""

from __future__ import annotations

import importlib
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before torch is imported: no threads, which a fork would lose.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("train", "evaluate", "figures", "report", "reproduce")
WRITES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree")

Command = Sequence[str]
"""An entry point's name and the words of its command line."""


@dataclass(frozen=True)
class Ended:
    """How a child ended. `status`: its exit status, negative for a signal."""

    status: int
    errors: str
    seconds: float

    @property
    def killed(self) -> bool:
        """Whether SIGKILL ended it."""
        return self.status == -signal.SIGKILL

    @property
    def refused(self) -> bool:
        """Whether it ended with status 1 or 2 and one line that says why."""
        lines = [line for line in self.errors.splitlines() if line.startswith("error: ")]
        return self.status in (1, 2) and len(lines) == 1 and "Traceback" not in self.errors

    @property
    def remedy(self) -> Path | None:
        """What the line says to delete."""
        found = re.search(r"delete (/\S+?)[,:]?\s", self.errors + " ")
        return Path(found[1]) if found else None


def load() -> None:
    """Import all entry points, so that children need not."""
    for module in MODULES:
        importlib.import_module(f"scripts.{module}")


def run(
    commands: Sequence[Command],
    log: Path,
    *,
    kill_after: float | None = None,
    before: Callable[[], None] | None = None,
) -> Ended:
    """Run `commands` one after another in a child; `before` is called in it first.

    Its standard output and error go to `log`. After `kill_after` seconds it is killed.
    """
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        _be_the_child(commands, log, before)
    status = _wait(child, None if kill_after is None else began + kill_after)
    return Ended(status, log.read_text(errors="replace"), time.monotonic() - began)


def _wait(child: int, deadline: float | None) -> int:
    while deadline is not None and time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    if deadline is not None:
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _be_the_child(
    commands: Sequence[Command], log: Path, before: Callable[[], None] | None
) -> None:
    """Run the commands as `python -m scripts.<name> <words>` would, then end the process."""
    status = 0
    try:
        os.chdir(ROOT)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if before is not None:
            before()
        for name, *words in commands:
            sys.argv = [f"scripts.{name}", *words]
            importlib.import_module(f"scripts.{name}").main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def kill_at_write(number: int, below: Path) -> Callable[[], None]:
    """Return a `before` that kills the child just before its `number`-th change below a folder."""

    def change(count: int) -> None:
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return lambda: _watch_writes(below, change)


def count_writes(counter: Path, below: Path) -> Callable[[], None]:
    """Return a `before` that keeps in `counter`'s size how many changes the child makes."""

    def start() -> None:
        handle = os.open(counter, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        _watch_writes(below, lambda _: os.write(handle, b"."))

    return start


def _watch_writes(below: Path, change: Callable[[int], Any]) -> None:
    """Call `change` with its number before every change of a file or folder below `below`."""
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if (event in WRITES or _opens_to_write(event, arguments)) and str(arguments[0]).startswith(
            str(below)
        ):
            seen += 1
            change(seen)

    sys.addaudithook(hook)


def _opens_to_write(event: str, arguments: tuple[Any, ...]) -> bool:
    return event == "open" and bool((arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
