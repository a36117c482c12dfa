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
from typing import BinaryIO, TextIO

from tqdm import tqdm

from pipeline.settings.configuration import end_progress

POLL_SECONDS = 0.5
EARLY = "{desc}  {percentage:3.0f}%  {elapsed} gone{postfix}"
FORMAT = "{desc}  {percentage:3.0f}%  {elapsed} gone, {remaining} left{postfix}"
"""What tqdm shows, before and after `RATE_FROM`; the time left follows the rate since the start."""
RATE_FROM = 0.01
"""Share of a stage that has to be done before its rate says anything about the time left."""
SHOW_AFTER = 1.0
"""Seconds after which a library's progress bar is worth following."""
ESTIMATE_AFTER = 30.0
"""Seconds of a stage after which, without a terminal, a line says how long it will take."""

Fraction = Callable[[], tuple[float, str]]
"""How much of a stage is done, 0 to 1, and what is running now."""


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
        with self._watched(name, fraction):
            yield
        self.line(f"{name}: {in_words(time.monotonic() - started)}")

    @contextlib.contextmanager
    def _watched(self, name: str, fraction: Fraction | None) -> Iterator[None]:
        """Redraw the display from a thread, which a long computation does not hold up."""
        form = EARLY if fraction is not None else "{desc}  {elapsed} gone"
        done = fraction()[0] if fraction is not None else 0.0
        with contextlib.ExitStack() as stack:
            stream = self.stream if self.live else stack.enter_context(open(os.devnull, "w"))
            bar = tqdm(total=1.0, initial=done, desc=name, file=stream, bar_format=form)
            ended = threading.Event()
            thread = threading.Thread(
                target=self._redraw, args=(bar, name, fraction, ended), daemon=True
            )
            thread.start()
            try:
                yield
            finally:
                ended.set()
                thread.join()
                bar.clear()
                bar.leave = False
                bar.close()

    def _redraw(
        self, bar: tqdm, name: str, fraction: Fraction | None, ended: threading.Event
    ) -> None:
        """Keep `bar` up to date until the stage has ended."""
        estimated = self.live
        while not ended.wait(POLL_SECONDS):
            if fraction is not None:
                bar.n, what = fraction()
                bar.set_postfix_str(what, refresh=False)
            else:
                follow(newest_bar(bar), bar, name)
            left = time_left(bar)
            if bar.bar_format in (EARLY, FORMAT):
                bar.bar_format = EARLY if left is None else FORMAT
            bar.refresh()
            if not estimated and left is not None and _age(bar) > ESTIMATE_AFTER:
                self.line(f"{bar.desc}: about {in_words(left)} left")
                estimated = True


def newest_bar(own: tqdm) -> tqdm | None:
    """The progress bar that a library began last, if it has run for SHOW_AFTER seconds."""
    with tqdm.get_lock():
        bars = list(tqdm._instances)  # type: ignore[attr-defined]
    others = [bar for bar in bars if bar is not own and not bar.disable]
    newest = max(others, key=lambda bar: bar.start_t, default=None)
    return newest if newest is not None and _age(newest) > SHOW_AFTER else None


def follow(other: tqdm | None, bar: tqdm, name: str) -> None:
    """Show the progress of the bar `other` in `bar`, which belongs to the stage `name`."""
    if other is None or not other.total:
        return
    bar.total, bar.n, bar.initial, bar.start_t = other.total, other.n, other.initial, other.start_t
    bar.bar_format = FORMAT
    bar.set_description_str(f"{name}: {other.desc}".removesuffix(": "), refresh=False)
    rate = (bar.n - bar.initial) / max(_age(bar), POLL_SECONDS)
    number = tqdm.format_sizeof(rate) if rate >= 1 else f"{rate:.2g}"
    about = [f"{number} {other.unit}/s", *([str(other.postfix)] if other.postfix else [])]
    bar.set_postfix_str(", ".join(about), refresh=False)


def time_left(bar: tqdm) -> float | None:
    """Seconds that a bar needs at its rate since it began; None while that is not known."""
    done = bar.n - bar.initial
    if not bar.total or done < RATE_FROM * bar.total:
        return None
    return (bar.total - bar.n) * _age(bar) / done


def _age(bar: tqdm) -> float:
    return time.time() - bar.start_t


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


_single: list[Screen] = []
"""The screen of a command that makes one run: where `say` and `stage` speak."""
_logs: list[Path] = []
"""The log of the screen that is open."""


def say(text: str) -> None:
    """Print a line that matters to the person, in a command that makes one run.

    In a command of many runs it goes to the log: there the command's own stages are shown.
    """
    print(text, flush=True)
    if _single:
        _single[-1].line(text)


def stage(name: str, fraction: Fraction | None = None) -> contextlib.AbstractContextManager[None]:
    """Show a stage on the command's screen if the command makes one run; else do nothing."""
    return _single[-1].stage(name, fraction) if _single else contextlib.nullcontext()


def where_output_is() -> str:
    """Where a message should say that the output is: "above", or the log's name."""
    return str(_logs[-1]) if _logs else "above"


@contextlib.contextmanager
def one_run(what: str, log: Path) -> Iterator[Screen]:
    """Open the screen of a command that makes one run and say `what` it does."""
    with screen(log) as shown:
        shown.line(f"{what}; log: {log}")
        _single.append(shown)
        try:
            yield shown
        finally:
            _single.pop()


@contextlib.contextmanager
def screen(log: Path) -> Iterator[Screen]:
    """Send what this process and its children print to the end of `log`; yield the screen.

    The process's own streams are restored when the block ends, however it ends. An empty log is
    deleted.
    """
    flush()
    saved = os.dup(1), os.dup(2)
    live = os.isatty(saved[0]) and not os.environ.get("CI")
    with _kept_if_written(log) as file, os.fdopen(os.dup(1), "w") as stream:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        _logs.append(log)
        try:
            yield Screen(stream, live)
        finally:
            _logs.pop()
            end_progress()
            flush()
            for number, handle in enumerate(saved, start=1):
                os.dup2(handle, number)
                os.close(handle)


@contextlib.contextmanager
def _kept_if_written(log: Path) -> Iterator[BinaryIO]:
    """Open `log` to append to; delete a new log that stays empty, and its new folder."""
    new_folder, new_log = not log.parent.exists(), not log.exists()
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with log.open("ab") as file:
            yield file
    finally:
        if new_log and log.is_file() and not log.stat().st_size:
            log.unlink()
            if new_folder:
                with contextlib.suppress(OSError):  # others wrote into it
                    log.parent.rmdir()


def flush() -> None:
    """Write out what the two standard streams still hold."""
    sys.stdout.flush()
    sys.stderr.flush()
