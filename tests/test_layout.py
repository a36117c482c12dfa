"""What README's Layout promises: which room imports which, and how much is one."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("rm", "generated", "eval", "analysis", "pipeline", "scripts", "benchmarks")
BASE = ("rm.errors", "rm.files", "rm.provenance")
RM = (*BASE, "rm.data", "rm.model", "rm.objective", "rm.training", "rm.integrations")
PIPELINE = ("settings", "launch", "run", "experiments", "plan")
MAY_IMPORT = {
    **{room: {*BASE, *RM[: RM.index(room)]} for room in RM if room not in BASE},
    "rm.errors": set(),
    "rm.provenance": {"rm.errors"},
    "rm.files": {"rm.errors", "rm.provenance"},
    "generated": {*RM},
    "eval": {*RM, "generated"},
    "analysis": {*RM, "generated", "eval"},
    **{
        f"pipeline.{room}": {
            *(*RM, "generated", "eval", "analysis"),
            *(f"pipeline.{above}" for above in PIPELINE[:number]),
        }
        for number, room in enumerate(PIPELINE)
    },
}
"""Room → the rooms that it may import. Commands and benchmarks may import all but each other."""


def sources() -> Iterator[tuple[str, Path]]:
    """Every module of the source: its dotted name and its file."""
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


FILES = dict(sources())
TREES = {module: ast.parse(path.read_text()) for module, path in FILES.items()}


def room_of(module: str) -> str:
    """Its package, or the room in rm or pipeline."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] in ("rm", "pipeline") else parts[0]


def imported(module: str) -> set[str]:
    """The modules of ours that a module names in an import, in functions too."""
    found = set()
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: a relative import"
            names = {f"{node.module}.{name.name}" for name in node.names}
            found |= {name if name in FILES else str(node.module) for name in names}
    return found & set(FILES)


IMPORTS = {module: imported(module) for module in FILES}


def test_every_room_has_its_rule() -> None:
    rooms = {room_of(module) for module in FILES}
    assert rooms - {"rm", "pipeline", "scripts", "benchmarks"} == set(MAY_IMPORT)


def test_imports_run_one_way() -> None:
    wrong = [
        f"{module} imports {other}"
        for module, others in IMPORTS.items()
        for other in sorted(others)
        if room_of(module) in MAY_IMPORT
        and room_of(other) not in {room_of(module), *MAY_IMPORT[room_of(module)]}
    ]
    assert wrong == []


def test_nothing_imports_commands_or_benchmarks() -> None:
    for module, others in IMPORTS.items():
        outside = {other for other in others if other.startswith(("scripts", "benchmarks"))}
        assert all(module.startswith("benchmarks") for _ in outside), f"{module}: {outside}"
        assert not any(other.startswith("scripts") for other in outside), f"{module}: {outside}"


def test_no_module_imports_itself_by_way_of_others() -> None:
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_a_command_is_at_most_60_lines() -> None:
    long = {
        module: FILES[module].read_text().count("\n")
        for module in FILES
        if module.startswith("scripts.")
    }
    assert {module: lines for module, lines in long.items() if lines > 60} == {}


def test_a_function_is_at_most_60_lines() -> None:
    long = defaultdict(int)
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                long[f"{module}.{node.name}"] = int(node.end_lineno or 0) - node.lineno + 1
    assert {name: lines for name, lines in long.items() if lines > 60} == {}


def test_every_command_has_a_docstring_that_names_it() -> None:
    for module, tree in TREES.items():
        if module.startswith("scripts."):
            assert f"python -m {module}" in str(ast.get_docstring(tree)), module
