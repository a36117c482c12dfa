"""Between Python and JavaScript, for the small part of both that the generated programs use.

One program written in Python is rendered in JavaScript from its syntax tree, so that running the
Python checks the meaning of both; the way back reads such JavaScript line by line, so that an
answer in JavaScript can be checked where no JavaScript engine is.
"""

from __future__ import annotations

import ast
import re

_COMPARE = {
    ast.Eq: "===",
    ast.NotEq: "!==",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
}
_BINARY = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Mod: "%"}
_METHODS = {"append": "push", "insert": "unshift"}


def to_javascript(source: str) -> str:
    """Render one Python function in JavaScript.

    Raises NotImplementedError for Python outside the part that the generated programs use.
    """
    function = ast.parse(source).body[0]
    if not isinstance(function, ast.FunctionDef):
        raise NotImplementedError("not a function")
    names = ", ".join(a.arg for a in function.args.args)
    declared = {a.arg for a in function.args.args}
    body = _block(function.body, 1, declared)
    return "\n".join([f"function {function.name}({names}) {{", *body, "}"])


def _block(body: list[ast.stmt], depth: int, declared: set[str]) -> list[str]:
    return [line for statement in body for line in _statement(statement, depth, declared)]


def _statement(node: ast.stmt, depth: int, declared: set[str]) -> list[str]:
    pad = "  " * depth
    if isinstance(node, ast.Return) and node.value is not None:
        return [f"{pad}return {_expression(node.value)};"]
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        name = node.targets[0].id
        word = "" if name in declared else "let "
        declared.add(name)
        return [f"{pad}{word}{name} = {_expression(node.value)};"]
    if isinstance(node, ast.AugAssign):
        op = _BINARY[type(node.op)]
        return [f"{pad}{_expression(node.target)} {op}= {_expression(node.value)};"]
    if isinstance(node, ast.Expr):
        return [f"{pad}{_expression(node.value)};"]
    if isinstance(node, ast.If | ast.While | ast.For):
        head = _head(node)
        inside = _block(node.body, depth + 1, set(declared))
        return [f"{pad}{head} {{", *inside, f"{pad}}}"]
    raise NotImplementedError(ast.dump(node))


def _head(node: ast.If | ast.While | ast.For) -> str:
    if isinstance(node, ast.If):
        return f"if ({_expression(node.test)})"
    if isinstance(node, ast.While):
        return f"while ({_expression(node.test)})"
    name, over = _expression(node.target), node.iter
    if not isinstance(over, ast.Call):
        return f"for (const {name} of {_expression(over)})"
    start, stop, step = (
        (*over.args, None, None)[:3] if len(over.args) > 1 else (None, over.args[0], None)
    )
    first = _expression(start) if start is not None else "0"
    by = _expression(step) if step is not None else "1"
    return f"for (let {name} = {first}; {name} {_upto(stop)}; {name} += {by})"


def _upto(stop: ast.expr | None) -> str:
    """Write the end of a range as people do: ``i <= n`` for ``range(n + 1)``."""
    if (
        isinstance(stop, ast.BinOp)
        and isinstance(stop.op, ast.Add)
        and isinstance(stop.right, ast.Constant)
        and stop.right.value == 1
    ):
        return f"<= {_expression(stop.left)}"
    assert stop is not None
    return f"< {_expression(stop)}"


def _expression(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        words = {True: "true", False: "false"}
        return (
            words[node.value]
            if isinstance(node.value, bool)
            else repr(node.value).replace("'", '"')
        )
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Compare):
        op = _COMPARE[type(node.ops[0])]
        return f"{_expression(node.left)} {op} {_expression(node.comparators[0])}"
    if isinstance(node, ast.BoolOp):
        return (" && " if isinstance(node.op, ast.And) else " || ").join(
            map(_expression, node.values)
        )
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.FloorDiv):
        return f"Math.floor({_expression(node.left)} / {_expression(node.right)})"
    if isinstance(node, ast.BinOp):
        return f"{_expression(node.left)} {_BINARY[type(node.op)]} {_expression(node.right)}"
    if isinstance(node, ast.Subscript):
        return f"{_expression(node.value)}[{_expression(node.slice)}]"
    if isinstance(node, ast.List):
        return f"[{', '.join(map(_expression, node.elts))}]"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        arguments = _expression(node.args[-1])
        return f"{_expression(node.func.value)}.{_METHODS[node.func.attr]}({arguments})"
    if isinstance(node, ast.Call):
        return f"{_expression(node.args[0])}.length"
    raise NotImplementedError(ast.dump(node))


_NAME = r"[A-Za-z_]\w*"
_LINES: tuple[tuple[str, str], ...] = (
    (rf"function ({_NAME})\((.*?)\) \{{", r"def \1(\2):"),
    (rf"for \(const ({_NAME}) of (.+)\) \{{", r"for \1 in \2:"),
    (
        rf"for \(let ({_NAME}) = (.+?); \1 <= (.+?); \1 \+= (.+?)\) \{{",
        r"for \1 in range(\2, \3 + 1, \4):",
    ),
    (
        rf"for \(let ({_NAME}) = (.+?); \1 < (.+?); \1 \+= (.+?)\) \{{",
        r"for \1 in range(\2, \3, \4):",
    ),
    (r"(if|while) \((.+)\) \{", r"\1 \2:"),
    (r"return (.+);", r"return \1"),
    (rf"({_NAME})\.push\((.+)\);", r"\1.append(\2)"),
    (rf"({_NAME})\.unshift\((.+)\);", r"\1.insert(0, \2)"),
    (rf"(?:let |const )?({_NAME} (?:=|\+=|-=|\*=) .+);", r"\1"),
)
_TERMS = (
    (r"===", "=="),
    (r"!==", "!="),
    (r"&&", "and"),
    (r"\|\|", "or"),
    (r"\btrue\b", "True"),
    (r"\bfalse\b", "False"),
    (rf"({_NAME})\.length", r"len(\1)"),
    (r"Math\.floor\((.+?) / (.+?)\)", r"\1 // \2"),
)


def from_javascript(text: str) -> str | None:
    """Read one JavaScript function of the form that `to_javascript` writes, as Python.

    Comments are left out. Gives None where another line is not of that form.
    """
    depth, out = 0, []
    for line in filter(None, (raw.strip() for raw in text.splitlines())):
        if line.startswith("//"):
            continue
        if line == "}":
            depth -= 1
            continue
        python = _line(line)
        if python is None:
            return None
        out.append("    " * depth + python)
        depth += line.endswith("{")
    return "\n".join(out) if depth == 0 else None


def _line(line: str) -> str | None:
    for pattern, form in _LINES:
        match = re.fullmatch(pattern, line)
        if match:
            python = match.expand(form)
            for old, new in _TERMS:
                python = re.sub(old, new, python)
            return python
    return None
