"""Worked steps of a calculation, right or with exactly one fault, and their wording."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from generated.core import Draft, Draw


@dataclass(frozen=True)
class Result:
    """Stands for the value of an earlier step, by its index."""

    step: int


@dataclass(frozen=True)
class Step:
    """One calculation ``left op right``; `label` says in words what it finds ("" for nothing)."""

    left: int | Result
    op: str
    right: int | Result
    label: str = ""


@dataclass(frozen=True)
class Working:
    """The equations as text ("3 * 4 = 12"), and the stated final answer."""

    equations: tuple[str, ...]
    labels: tuple[str, ...]
    answer: int


class Inexact(Exception):
    """A fault led to a negative number or to a fraction: draw another one."""


_CLOSINGS = (
    "The answer is {answer}.",
    "So the answer is {answer}.",
    "Final answer: {answer}",
    "That makes {answer}.",
    "The result is {answer}.",
    "Therefore we get {answer}.",
    "Answer: {answer}",
)


def apply(left: int, op: str, right: int) -> int:
    """Compute ``left op right`` in whole numbers; raise Inexact below zero or with a remainder."""
    if op == "/":
        if right == 0 or left % right:
            raise Inexact
        return left // right
    value = {"+": left + right, "-": left - right, "*": left * right}[op]
    if value < 0:
        raise Inexact
    return value


def work(steps: Sequence[Step], slips: dict[int, int] | None = None) -> Working:
    """Carry out the steps; `slips` adds a number to the value of a step, and what follows uses it.

    Raises Inexact where a value is negative or not whole.
    """
    values: list[int] = []
    equations: list[str] = []
    for index, step in enumerate(steps):
        left, right = (values[o.step] if isinstance(o, Result) else o for o in _operands(step))
        value = apply(left, step.op, right) + (slips or {}).get(index, 0)
        if value < 0:
            raise Inexact
        values.append(value)
        equations.append(f"{left} {step.op} {right} = {value}")
    return Working(tuple(equations), tuple(step.label for step in steps), values[-1])


def _operands(step: Step) -> tuple[int | Result, int | Result]:
    return step.left, step.right


def other_digit(draw: Draw, value: int) -> int:
    """Change one digit of a number, keeping how many digits it has."""
    digits = list(str(value))
    place = draw.rng.randrange(len(digits))
    lowest = 1 if place == 0 and len(digits) > 1 else 0
    digits[place] = draw.choose([d for d in "0123456789"[lowest:] if d != digits[place]])
    return int("".join(digits))


def _slip(draw: Draw, steps: Sequence[Step], index: int) -> Working:
    partial = work(steps[: index + 1]).answer
    return work(steps, {index: other_digit(draw, partial) - partial})


def _wrong_operation(draw: Draw, steps: Sequence[Step]) -> Working:
    """Do one step with the opposite sign, or with another quantity of the problem."""
    index = draw.rng.randrange(len(steps))
    step = steps[index]
    if step.op in "+-" and draw.coin():
        return work([*steps[:index], replace(step, op="+-"[step.op == "+"]), *steps[index + 1 :]])
    givens = {o for s in steps for o in _operands(s) if isinstance(o, int)}
    results = {Result(i) for i in range(index)}
    others = sorted(givens - set(_operands(step)))
    spare: list[int | Result] = [
        *others,
        *sorted(results - set(_operands(step)), key=lambda r: r.step),
    ]
    if not spare:
        raise Inexact
    other = draw.choose(spare)
    wrong = replace(step, left=other) if draw.coin() else replace(step, right=other)
    return work([*steps[:index], wrong, *steps[index + 1 :]])


def faulty(draw: Draw, steps: Sequence[Step]) -> tuple[Working, float]:
    """Work the steps with exactly one fault that changes the final answer; give its margin too.

    Margins: 1 = one digit of the answer is wrong (in the last step, or only where it is stated),
    2 = an earlier step is miscalculated and the error is carried on, 3 = a step does the wrong
    operation or takes the wrong quantity.
    """
    right = work(steps)
    while True:
        margin = draw.choose((1.0, 2.0, 3.0) if len(steps) > 1 else (1.0, 3.0))
        try:
            if margin == 3.0:
                wrong = _wrong_operation(draw, steps)
            elif margin == 2.0:
                wrong = _slip(draw, steps, draw.rng.randrange(len(steps) - 1))
            elif draw.coin():
                wrong = _slip(draw, steps, len(steps) - 1)
            else:
                wrong = replace(right, answer=other_digit(draw, right.answer))
        except Inexact:
            continue
        if wrong.answer != right.answer:
            return wrong, margin


def word(working: Working, style: int, closing: str) -> str:
    """Write a working as text in one of five styles, ending in the closing sentence."""
    equations, labels = working.equations, working.labels
    if style == 0:
        body = "\n".join(equations)
    elif style == 1:
        openers = ("First", "Then", "Next", "After that", "Finally", "Last")
        body = " ".join(f"{o}, {e}." for o, e in zip(openers, equations, strict=False))
    elif style == 2:
        body = "\n".join(f"Step {i}: {e}" for i, e in enumerate(equations, 1))
    elif style == 3 and all(labels):
        body = "\n".join(
            f"{lab.capitalize()}: {e}" for lab, e in zip(labels, equations, strict=True)
        )
    else:
        body = " ".join(f"{e}." for e in equations)
    gap = "\n" if style in (0, 2, 3) else " "
    return f"{body}{gap}{closing.format(answer=working.answer)}"


def draft(draw: Draw, template: str, prompt: str, steps: Sequence[Step], unit: str = "") -> Draft:
    """Make a pair of one task: the right working, and the same text with one fault.

    Raises Inexact where the right working itself is negative or not whole.
    """
    right = work(steps)
    wrong, margin = faulty(draw, steps)
    style, closing = draw.rng.randrange(5), draw.choose(_CLOSINGS)
    if unit:
        closing = closing.replace("{answer}", "{answer} " + unit)
    return Draft(template, prompt, word(right, style, closing), word(wrong, style, closing), margin)
