"""The parameters of a task: what each may be, and the tasks that differ in one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from generated.core import Draw, numbers

Values = dict[str, Any]
"""A task's parameters and the words of its text, by name."""


class Option(NamedTuple):
    """What a parameter may be: as calculations and code have it, and how a text says it."""

    code: str
    words: str
    start: str = ""

    def __str__(self) -> str:
        return self.words


@dataclass(frozen=True)
class Parameter:
    """What a parameter may be (`options`, or else the split's numbers of a range).

    `fault` names what is wrong with an answer that takes another option, `margin` how wrong it is.
    """

    fault: str
    margin: float
    options: Sequence[Any] = ()
    low: int = 0
    high: int = 0
    step: int = 1

    def choices(self, draw: Draw) -> Sequence[Any]:
        """List the options that a task of the draw's split may have."""
        return self.options or numbers(draw.split, self.low, self.high, self.step)


def number(low: int, high: int, step: int = 1) -> Parameter:
    """Give a parameter that is a number of the split."""
    return Parameter("number", 2.0, low=low, high=high, step=step)


def digit(low: int = 2, high: int = 9) -> Parameter:
    """Give a parameter that is a one-digit number, which all splits share."""
    return Parameter("number", 2.0, options=tuple(range(low, high + 1)))


def sign(plus: str = "+", minus: str = "-") -> Parameter:
    """Give a parameter that is plus or minus, said in these words."""
    return Parameter("operation", 3.0, options=(Option("+", plus), Option("-", minus)))


def options(fault: tuple[str, float], *choices: Any) -> Parameter:
    """Give a parameter with these options, and the name and margin of its fault."""
    name, margin = fault
    return Parameter(name, margin, options=choices)


def drawn(draw: Draw, parameters: Mapping[str, Parameter]) -> Values:
    """Draw a value for every parameter."""
    return {name: draw.choose(parameter.choices(draw)) for name, parameter in parameters.items()}


def neighbour(
    draw: Draw, values: Values, parameters: Mapping[str, Parameter]
) -> tuple[Values, Parameter]:
    """Change one parameter to another of its options; give the new values and that parameter.

    Every sort of fault is equally likely, and so is every parameter with it.
    """
    fault = draw.choose(sorted({parameter.fault for parameter in parameters.values()}))
    name = draw.choose([name for name, p in parameters.items() if p.fault == fault])
    parameter = parameters[name]
    other = draw.choose([o for o in parameter.choices(draw) if o != values[name]])
    return values | {name: other}, parameter
