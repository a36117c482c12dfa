"""A task before its answers are worded, and the two wrappings in which its answers come.

A rejected answer is wrong by one fault. Most faults make it the right answer to a neighbouring
task, which differs in one parameter drawn from the same options. So without the prompt nothing
tells a chosen answer from a rejected one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from generated.core import Draw
from rm.errors import InputError

T = TypeVar("T")
VARIANTS = 60
"""A wrapping's numbers go up to here: every list of variants has a length that divides it."""
_PATIENCE = 2000


class Wrapping(NamedTuple):
    """How an answer is worded, apart from what it says: four numbers below `VARIANTS`."""

    opening: int
    style: int
    wording: int
    closing: int


def wrapping(draw: Draw) -> Wrapping:
    """Draw a wrapping; every variant of every list is equally likely."""
    return Wrapping(*(draw.rng.randrange(VARIANTS) for _ in Wrapping._fields))


def variant(options: Sequence[T], number: int) -> T:
    """Take the option that a wrapping's number stands for.

    Raises ValueError where the options would not be equally likely.
    """
    if VARIANTS % len(options):
        raise ValueError(f"{len(options)} variants: their number must divide {VARIANTS}")
    return options[number % len(options)]


class Fault(NamedTuple):
    """What a wrong answer says, what is wrong with it, and by how much (1, 2 or 3)."""

    content: Any
    name: str
    margin: float


@dataclass(frozen=True)
class Task:
    """A prompt with ways to draw what a right and what a faulty answer says, and to word both.

    `right` draws a right content (often there is only one), `fault` a faulty content made from a
    right one. `kind` names the task kind and the prompt's phrasing; `cluster` names what the task
    shares with others, "" where that is nothing.
    """

    kind: str
    prompt: str
    right: Callable[[Draw], Any]
    fault: Callable[[Draw, Any], Fault]
    write: Callable[[Any, Wrapping], str]
    cluster: str = ""


class Contrast(NamedTuple):
    """The two answers of a pair, the fault of the rejected one and both wrappings."""

    chosen: str
    rejected: str
    fault: Fault
    wrappings: tuple[Wrapping, Wrapping]


def contrast(task: Task, draw: Draw, *, close: bool) -> Contrast:
    """Draw the answers of a pair: close ones differ in the fault alone.

    Far ones have it too, but each has a wrapping and, where there are several, a right content of
    its own.
    """
    right, one = task.right(draw), wrapping(draw)
    base, two = (right, one) if close else (task.right(draw), wrapping(draw))
    fault = task.fault(draw, base)
    return Contrast(task.write(right, one), task.write(fault.content, two), fault, (one, two))


def answers(task: Task, draw: Draw, *, right: int, faulty: int) -> tuple[list[str], list[str]]:
    """Draw so many different right and faulty answers to one prompt, each in its own wrapping.

    Raises InputError where there are not so many.
    """
    good = _distinct(lambda: task.write(task.right(draw), wrapping(draw)), right, task)
    bad = _distinct(
        lambda: task.write(task.fault(draw, task.right(draw)).content, wrapping(draw)), faulty, task
    )
    return good, bad


def _distinct(make: Callable[[], str], count: int, task: Task) -> list[str]:
    found: dict[str, None] = {}
    for _ in range(_PATIENCE):
        if len(found) == count:
            break
        found.setdefault(make())
    if len(found) < count:
        raise InputError(f"{task.kind} has only {len(found)} different answers, not {count}")
    return list(found)
