"""Is a response to a generated prompt right? Re-derived from the texts alone.

`verify` is the only entry point that other packages need. The solvers here read the numbers from
the prompt and compute the answer in their own way (closed formulas, not the makers' steps).
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

from generated.verify_programs import verify_program
from generated.verify_text import keeps_instruction

_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_INSTRUCTIONS = frozenset(("symbols", "counts", "shape", "names", "words"))
_LANGUAGES = {"python": "Python", "javascript": "JavaScript"}


def verify(pair_subset: str, prompt: str, response: str) -> bool | None:
    """Say whether any response text is right for a generated prompt; None where code cannot tell.

    Calculations: the last number is the answer and no equation shown is false. Programs: the asked
    function gives the right values on a set of inputs (it is run here, restricted to arithmetic,
    loops and lists; JavaScript only in the form that the makers write, else None). Instructions:
    the stated constraint is met, on topic or not. Chat and Safety: None.
    """
    named = re.fullmatch(r"gen2-(.+)-(?:close|far)", pair_subset)
    kind = named[1] if named else ""
    if kind in _SOLVERS:
        answer = _SOLVERS[kind](prompt)
        if answer is None:
            return None
        return final_answer(response) == answer and not false_equations(response)
    if kind in _LANGUAGES:
        return verify_program(_LANGUAGES[kind], prompt, response)
    return keeps_instruction(prompt, response) if kind in _INSTRUCTIONS else None


def evaluate(expression: str) -> Fraction:
    """Compute an expression of whole numbers with + - * / and brackets, exactly.

    Raises SyntaxError or ValueError where it is none, ZeroDivisionError where it has no value.
    """
    return _value(ast.parse(expression.strip(), mode="eval").body)


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return Fraction(node.value)
    raise ValueError("not a calculation in whole numbers")


def final_answer(response: str) -> Fraction | None:
    """Read the last number of a response, or None where it has none."""
    found = re.findall(r"-?\d+(?:\.\d+)?", re.sub(r"(?<=\d),(?=\d{3}\b)", "", response))
    return Fraction(found[-1]) if found else None


def false_equations(response: str) -> list[str]:
    """List the equations of a response ("3 * 4 = 12") that do not hold."""
    wrong = []
    for left, right in re.findall(r"([\d(][\d ()+*/-]*[\d)]) = (-?\d+(?:\.\d+)?)", response):
        try:
            holds = evaluate(left) == Fraction(right)
        except (SyntaxError, ValueError):
            continue
        except ZeroDivisionError:
            holds = False
        if not holds:
            wrong.append(f"{left} = {right}")
    return wrong


def _integers(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", text)]


def _signed(word: str, value: str) -> int:
    return int(value) if word == "plus" else -int(value)


def _arithmetic(prompt: str) -> Fraction | None:
    if m := re.search(r"(\d+)% of (\d+), (plus|minus) (\d+)", prompt):
        return Fraction(int(m[1]) * int(m[2]), 100) + _signed(m[3], m[4])
    if m := re.search(r"average of (\d+), (\d+) and (\d+)", prompt):
        return Fraction(sum(map(int, m.groups())), 3)
    if m := re.search(
        r"(\d+) (plus|minus) (\d+), all times (\d+), then (plus|minus) (\d+)", prompt
    ):
        return Fraction((int(m[1]) + _signed(m[2], m[3])) * int(m[4]) + _signed(m[5], m[6]))
    found = re.findall(r"[\d(][\d ()+*/-]+[\d)]", prompt)
    try:
        return evaluate(max(found, key=len)) if found else None
    except (SyntaxError, ValueError, ZeroDivisionError):
        return None


def _next_term(terms: list[int]) -> int | None:
    """Find the rule that all the terms obey, and apply it once more."""
    gaps = [b - a for a, b in pairwise(terms)]
    if len(set(gaps)) == 1:
        return terms[-1] + gaps[0]
    if all(terms[i] == terms[i - 1] + terms[i - 2] for i in range(2, len(terms))):
        return terms[-1] + terms[-2]
    second = [b - a for a, b in pairwise(gaps)]
    if len(set(second)) == 1:
        return terms[-1] + gaps[-1] + second[0]
    rest = {b - 2 * a for a, b in pairwise(terms)}
    return 2 * terms[-1] + rest.pop() if len(rest) == 1 else None


def _sequence(prompt: str) -> Fraction | None:
    shown = re.search(r"\d+(?:, \d+){3,}", prompt)
    following = _next_term(_integers(shown[0])) if shown else None
    return None if following is None else Fraction(following)


_SIZES = {
    "seconds": 1,
    "minutes": 60,
    "hours": 3600,
    "days": 86400,
    "weeks": 604800,
    "inches": 1,
    "feet": 12,
    "yards": 36,
    "centimetres": 1,
    "metres": 100,
    "kilometres": 100000,
    "grams": 1,
    "kilograms": 1000,
    "millilitres": 1,
    "litres": 1000,
    "ounces": 1,
    "pounds": 16,
    "quarts": 1,
    "gallons": 4,
    "pieces": 1,
    "dozens": 12,
}


def _units(prompt: str) -> Fraction | None:
    target = re.search(r"how many (\w+)", prompt, re.IGNORECASE)
    found = re.findall(rf"(\d+) ({'|'.join(_SIZES)})", prompt)
    if target is None or not found or target[1] not in _SIZES:
        return None
    amounts = [int(n) * _SIZES[unit] for n, unit in found]
    total = amounts[0] - amounts[1] if "uses up" in prompt else sum(amounts)
    if times := re.search(r"needs (\d+) times", prompt):
        total *= int(times[1])
    return Fraction(total, _SIZES[target[1]])


def _tank(flow: str, last: str) -> str:
    return rf"holds (\d+) litres and {flow} (\d+) .* (\d+) hours\. Then (\d+) litres are {last}"


_STORIES: tuple[tuple[str, Callable[..., int | Fraction]], ...] = (
    (r"packs (\d+) boxes with (\d+) .* buys another (\d+)", lambda a, b, c: a * b + c),
    (r"has (\d+) dollars and saves (\d+) .* for (\d+) weeks", lambda a, b, c: a + b * c),
    (r"has (\d+) dollars and spends (\d+) .* for (\d+) weeks", lambda a, b, c: a - b * c),
    (r"has (\d+) rows with (\d+) seats .* (\d+) seats are added", lambda a, b, c: a * b + c),
    (r"has (\d+) rows with (\d+) seats .* (\d+) seats are taken", lambda a, b, c: a * b - c),
    (r"wraps (\d+) .* wraps (\d+) more.* in (\d+) hours", lambda a, b, c: (a + b) * c),
    (r"wraps (\d+) .* wraps (\d+) fewer.* in (\d+) hours", lambda a, b, c: (a - b) * c),
    (r"is (\d+) years old .* is (\d+) years younger.* after (\d+)", lambda a, b, c: a - b + c),
    (r"costs (\d+) dollars, plus a .* (\d+) percent", lambda a, p: Fraction(a * (100 + p), 100)),
    (r"costs (\d+) dollars, less a .* (\d+) percent", lambda a, p: Fraction(a * (100 - p), 100)),
    (r"for (\d+) hours at (\d+) km .* on for another (\d+) km", lambda a, b, c: a * b + c),
    (r"for (\d+) hours at (\d+) km .* back for (\d+) km", lambda a, b, c: a * b - c),
    (r"buys (\d+) \w+ for (\d+) .* for (\d+) dollars more", lambda a, b, c: a * (b + c)),
    (r"buys (\d+) \w+ for (\d+) .* for (\d+) dollars less", lambda a, b, c: a * (b - c)),
    (_tank("gains", "added"), lambda a, b, c, d: a + b * c + d),
    (_tank("gains", "let out"), lambda a, b, c, d: a + b * c - d),
    (_tank("loses", "added"), lambda a, b, c, d: a - b * c + d),
    (_tank("loses", "let out"), lambda a, b, c, d: a - b * c - d),
    (r"has (\d+) \w+, sells half .* buys another (\d+)", lambda a, b: Fraction(a, 2) + b),
    (r"packs (\d+) boxes with (\d+) .* gives away (\d+)", lambda a, b, c: a * b - c),
    (r"is (\d+) years old .* is (\d+) years older.* after (\d+)", lambda a, b, c: a + b + c),
    (r"(\d+) m long and (\d+) m wide, costs (\d+)", lambda a, b, c: 2 * (a + b) * c),
    (
        r"(\d+) adults pay (\d+) .* (\d+) children pay (\d+)",
        lambda a, b, c, d: a * b + c * d,
    ),
    (r"has (\d+) \w+, sells half .* loses (\d+)", lambda a, b: Fraction(a, 2) - b),
)
_LEGS = {"hens": 2, "ducks": 2, "goats": 4, "cows": 4, "beetles": 6, "spiders": 8}


def _word_problem(prompt: str) -> Fraction | None:
    animals = "|".join(_LEGS)
    if m := re.search(rf"keeps (\d+) ({animals}) and (\d+) ({animals})\. How many legs", prompt):
        return Fraction(int(m[1]) * _LEGS[m[2]] + int(m[3]) * _LEGS[m[4]])
    for pattern, formula in _STORIES:
        if m := re.search(pattern, prompt):
            return Fraction(formula(*map(int, m.groups())))
    return None


_SOLVERS: dict[str, Callable[[str], Fraction | None]] = {
    "arithmetic": _arithmetic,
    "sequence": _sequence,
    "units": _units,
    "word-problem": _word_problem,
}
