"""What a person sees of a long command: lines that matter and one live progress display.

Everything else that is printed, by us or by a library, goes to a log file. Without a terminal, or
where CI is set, a stage is one line when it begins and one when it ends.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

POLL_SECONDS = 0.5
FORMAT = "{desc}  {percentage:3.0f}%  {elapsed} gone, {remaining} left{postfix}"
"""What tqdm shows; the time left is that of the rate since the stage began."""

Fraction = Callable[[], tuple[float, str]]
"""How much of a stage is done, 0 to 1, and what is at work now."""


class Screen:
    """Where a command speaks to a person. `live`: whether the stream is a terminal."""

    def __init__(self, stream: TextIO, live: bool) -> None:
        self.stream, self.live = stream, live

    def line(self, text: str) -> None:
        """Print a line, above the progress display where there is one."""
        tqdm.write(text, file=self.stream)
        self.stream.flush()

    @contextlib.contextmanager
    def stage(self, name: str, fraction: Fraction | None = None) -> Iterator[None]:
        """Show a stage while the block runs, with its progress if `fraction` measures it."""
        started = time.monotonic()
        if not self.live:
            self.line(f"{name} …")
        watch = self._watched(name, fraction) if self.live else contextlib.nullcontext()
        with watch:
            yield
        self.line(f"{name}: {in_words(time.monotonic() - started)}")

    @contextlib.contextmanager
    def _watched(self, name: str, fraction: Fraction | None) -> Iterator[None]:
        """Redraw the display from a thread, which a long computation does not hold up."""
        form = FORMAT if fraction is not None else "{desc}  {elapsed} gone"
        done = fraction()[0] if fraction is not None else 0.0
        bar = tqdm(total=1.0, initial=done, desc=name, file=self.stream, bar_format=form)
        ended = threading.Event()

        def redraw() -> None:
            while not ended.wait(POLL_SECONDS):
                if fraction is not None:
                    bar.n, what = fraction()
                    bar.set_postfix_str(what, refresh=False)
                bar.refresh()

        thread = threading.Thread(target=redraw, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            bar.leave = False
            bar.close()


def in_words(seconds: float) -> str:
    """A time in words: "42 s", "3 min 5 s", "2 h 10 min".

    >>> in_words(185), in_words(7800)
    ('3 min 5 s', '2 h 10 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


@contextlib.contextmanager
def screen(log: Path) -> Iterator[Screen]:
    """Send what this process and its children print to the end of `log`; yield the screen.

    The process's own streams are back when the block ends, however it ends.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    flush()
    saved = os.dup(1), os.dup(2)
    live = os.isatty(saved[0]) and not os.environ.get("CI")
    with os.fdopen(os.dup(1), "w") as stream, log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield Screen(stream, live)
        finally:
            flush()
            for number, handle in enumerate(saved, start=1):
                os.dup2(handle, number)
                os.close(handle)


def flush() -> None:
    """Write out what the two standard streams still hold."""
    sys.stdout.flush()
    sys.stderr.flush()
