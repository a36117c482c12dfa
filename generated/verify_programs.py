"""Run a small program against the task that its prompt states.

The program is checked to be arithmetic, comparisons, loops and lists before it runs, and its loops
are bounded. That keeps mistakes harmless; it is not a sandbox against hostile code.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

from generated.javascript import from_javascript

Reference = Callable[[Any], Any]
"""What the asked function must return for an argument."""

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "greater than": operator.gt,
    "at least": operator.ge,
    "less than": operator.lt,
    "at most": operator.le,
    "equal to": operator.eq,
    "not equal to": operator.ne,
}
_HOW = "(greater than|at least|less than|at most|equal to|not equal to)"
_STEPS_ALLOWED = 20_000
_LARGEST_CONSTANT = 1_000_000


def _range(fold: str, first: str, last: str, which: str, k: str) -> Reference:
    def reference(n: int) -> int:
        stop = n + 1 if last == "including" else n
        kept = [i for i in range(int(first), stop) if (i % int(k) > 0) == which.startswith("not")]
        if fold == "number":
            return len(kept)
        total = 0 if fold == "sum" else 1
        for i in kept:
            total = total + i if fold == "sum" else total * i
        return total

    return reference


def _kept(how: str, t: str) -> Callable[[Sequence[int]], list[int]]:
    return lambda values: [v for v in values if _COMPARE[how](v, int(t))]


def _count(how: str, t: str) -> Reference:
    return lambda values: len(_kept(how, t)(values))


def _sum(how: str, t: str) -> Reference:
    return lambda values: sum(_kept(how, t)(values))


def _sign(word: str, b: str) -> int:
    return int(b) if word == "plus" else -int(b)


def _fee(a: str, sign: str, b: str, how: str, t: str) -> Reference:
    return lambda n: n * int(a) + (_sign(sign, b) if _COMPARE[how](n, int(t)) else 0)


def _extreme(which: str, what: str) -> Reference:
    def reference(values: Sequence[int]) -> int:
        best = max(values) if what == "largest" else min(values)
        places = [i for i, v in enumerate(values) if v == best]
        return places[0] if which == "first" else places[-1]

    return reference


def _shift(sign: str, b: str, order: str) -> Reference:
    step = 1 if order == "the original" else -1
    return lambda values: [v + _sign(sign, b) for v in values][::step]


def _digits(fold: str, how: str, t: str) -> Reference:
    def reference(n: int) -> int:
        digits = _kept(how, t)([int(d) for d in str(n)] if n else [])
        return sum(digits) if fold == "sum" else len(digits)

    return reference


def _every(fold: str, k: str, first: str) -> Reference:
    def reference(values: Sequence[int]) -> Any:
        kept = list(values[int(first) :: int(k)])
        return sum(kept) if fold == "sum" else kept

    return reference


def _recurrence(count: str, a: str, k: str, sign: str, b: str) -> Reference:
    def reference(n: int) -> int:
        term = int(a)
        for _ in range(n if "steps" in count else n - 1):
            term = int(k) * term + _sign(sign, b)
        return term

    return reference


def _both(k: str, join: str, how: str, t: str) -> Reference:
    combine = all if join == "and" else any
    return lambda n: combine((n % int(k) == 0, _COMPARE[how](n, int(t))))


TASKS: tuple[tuple[str, Callable[..., Reference]], ...] = (
    (
        r"the (sum|number|product) of the integers from (\d+) to n, (including|not including) n, "
        r"that are (multiples of|not multiples of) (\d+)",
        _range,
    ),
    (rf"how many numbers in the list values are {_HOW} (\d+)", _count),
    (rf"the sum of the numbers in the list values that are {_HOW} (\d+)", _sum),
    (rf"a list of those numbers in the list values that are {_HOW} (\d+)", _kept),
    (
        r"the number n times (\d+) (plus|minus) (\d+)",
        lambda a, sign, b: lambda n: n * int(a) + _sign(sign, b),
    ),
    (rf"the cost n times (\d+), (plus|minus) (\d+) if n is {_HOW} (\d+)", _fee),
    (
        r"the (first|last) place where the (largest|smallest) number of the list values stands",
        _extreme,
    ),
    (
        rf'how many characters of text are {_HOW} "(\w)"',
        lambda how, letter: lambda text: sum(_COMPARE[how](c, letter) for c in text),
    ),
    (
        r"each number of the list values (plus|minus) (\d+), in (the original|reverse) order",
        _shift,
    ),
    (rf"the (sum|number) of those decimal digits of n that are {_HOW} (\d+)", _digits),
    (
        r"the (sum|list) of every (\d+)\w\w number of the list values, beginning with index (\d+)",
        _every,
    ),
    (
        r"the number n, limited to the range from (\d+) to (\d+)",
        lambda low, high: lambda n: min(max(n, int(low)), int(high)),
    ),
    (
        r"the term (after n steps|at place n, the start being place 1), where the start is (\d+) "
        r"and each term is (\d+) times the one before, (plus|minus) (\d+)",
        _recurrence,
    ),
    (rf"true if n is a multiple of (\d+) (and|or) is {_HOW} (\d+), and false if not", _both),
)


def reference(prompt: str) -> Reference | None:
    """Read the task from the prompt; give the function that fulfils it, or None."""
    for pattern, build in TASKS:
        if m := re.search(pattern, prompt):
            return build(*m.groups())
    return None


def asked_function(prompt: str) -> tuple[str, str] | None:
    """Read the asked function's name and its argument's name from the prompt."""
    m = re.search(r"(\w+)\((n|values|text)\)", prompt)
    return (m[1], m[2]) if m else None


def inputs(prompt: str, argument: str) -> list[Any]:
    """List arguments to try: small ones, and those around every number of the prompt."""
    edges = sorted({int(n) + i for n in re.findall(r"\d+", prompt) for i in (-1, 0, 1)})
    if argument == "n":
        if "true if" in prompt:
            return [*range(1, 130), 999, 3456, 90817]
        grows = "the term" in prompt or "of the integers" in prompt
        return list(range(1, 17)) + ([] if grows else [*edges, 50, 75, 98, 999, 3456, 90817])
    if argument == "text":
        return ["", "a", "interesting", "oranges and lemons", "until all is lost", "turnstile"]
    spread = [4, 91, 17, 17, 60, 35, 91, 4, 72, 8, 8, 55]
    return [[7], [5, 5], edges, edges[::-1], spread, spread[::-1], [*edges, *edges]]


def code_of(response: str) -> str:
    """Take the first fenced block of a response, or all of it where there is none."""
    fenced = re.search(r"```\w*\n(.*?)```", response, re.DOTALL)
    return (fenced[1] if fenced else response).strip()


_ALLOWED = (
    ast.Module,
    ast.FunctionDef,
    ast.arguments,
    ast.arg,
    ast.Return,
    ast.Assign,
    ast.AugAssign,
    ast.For,
    ast.While,
    ast.If,
    ast.Expr,
    ast.Break,
    ast.Continue,
    ast.Pass,
    ast.BoolOp,
    ast.BinOp,
    ast.UnaryOp,
    ast.IfExp,
    ast.Compare,
    ast.Call,
    ast.Constant,
    ast.Name,
    ast.List,
    ast.Tuple,
    ast.Subscript,
    ast.Slice,
    ast.ListComp,
    ast.GeneratorExp,
    ast.comprehension,
    ast.expr_context,
    ast.boolop,
    ast.operator,
    ast.unaryop,
    ast.cmpop,
    ast.Attribute,
)
_BUILTINS = {
    f.__name__: f
    for f in (
        range,
        len,
        abs,
        min,
        max,
        sum,
        sorted,
        list,
        str,
        int,
        enumerate,
        reversed,
        zip,
        bool,
    )
}
_METHODS = frozenset(("append", "insert", "count", "index", "copy", "reverse", "sort", "pop"))


class _Bounded(ast.NodeTransformer):
    """Put a call that counts at the start of every loop's body."""

    def _loop(self, node: ast.For | ast.While) -> ast.AST:
        self.generic_visit(node)
        node.body.insert(0, ast.parse("_tick()").body[0])
        return node

    visit_For = visit_While = _loop


def _harmless(tree: ast.AST) -> bool:
    for node in ast.walk(tree):
        if not isinstance(node, _ALLOWED) or isinstance(node, ast.Pow | ast.LShift):
            return False
        if isinstance(node, ast.Attribute) and node.attr not in _METHODS:
            return False
        value = getattr(node, "value", None)
        if isinstance(value, int) and value > _LARGEST_CONSTANT:
            return False
    return True


def load(source: str, name: str) -> Callable[[Any], Any] | None:
    """Define the named function from Python source; None where it is missing or not allowed."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: nested too deep
        return None
    if not _harmless(tree):
        return None
    left = [0]

    def tick() -> None:
        left[0] += 1
        if left[0] > _STEPS_ALLOWED:
            raise TimeoutError

    scope: dict[str, Any] = {"__builtins__": {}, "_tick": tick, **_BUILTINS}
    try:
        exec(compile(ast.fix_missing_locations(_Bounded().visit(tree)), "program", "exec"), scope)
    except Exception:
        return None
    function = scope.get(name)
    return function if callable(function) else None


def verify_program(language: str, prompt: str, response: str) -> bool | None:
    """Say whether the response's function returns what the prompt asks, on all inputs tried.

    None where the prompt states no known task, or where JavaScript is not of the form that
    `javascript.from_javascript` reads.
    """
    want, asked = reference(prompt), asked_function(prompt)
    if want is None or asked is None:
        return None
    name, argument = asked
    source: str | None = code_of(response)
    if language == "JavaScript":
        if not re.search(rf"\b{name}\b", source or ""):
            return False
        source = from_javascript(source or "")
        if source is None:
            return None
    function = load(source or "", name)
    return function is not None and all(
        _agrees(function, want, value) for value in inputs(prompt, argument)
    )


def _agrees(function: Callable[[Any], Any], want: Reference, value: Any) -> bool:
    copy = list(value) if isinstance(value, list) else value
    try:
        got, right = function(copy), want(value)
    except Exception:
        return False
    return type(got) is type(right) and got == right
