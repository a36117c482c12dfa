"""What each method is called, which method it is compared with, and its role: from conf/loss.

Only a file's own keys `label`, `base` and `role` count. Those of a file that it builds on do not: a
loss on top of bt is not called BT.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from rm.errors import InputError

LOSSES: Final = Path(__file__).resolve().parents[1] / "conf" / "loss"
ROLES: Final = ("variant", "form", "rival", "control")
"""A BT loss of the paper, with or without NormBT's weight; NormBT's weight in another form; a loss
published for the same complaint; a method that isolates one part of what NormBT does."""
FAMILIES: Final = {"bt": "BT", "normbt": "NormBT"}


@dataclass(frozen=True)
class Method:
    """A loss as tables and figures show it. `base` is None if it is compared with no method."""

    name: str
    label: str
    base: str | None
    role: str


def described(name: str) -> Method:
    """Return what a method's file says about it, or the defaults for a method without a file."""
    return methods(LOSSES).get(name) or method_of(name, {}, Path())


def base_of(name: str, present: Container[str]) -> str | None:
    """Return the method among `present` that `name` is compared with, None if there is none.

    That is its base or, if the base was not run, the base of its base, and so on.
    """
    base = described(name).base
    while base is not None and base not in present:
        base = described(base).base
    return base


@cache
def methods(folder: Path) -> dict[str, Method]:
    """Return every method that has a file in `folder`, by name.

    Raises InputError, naming the file: it cannot be read, or a key has a wrong value.
    """
    found = {}
    for path in sorted(folder.glob("[!_]*.yaml")):
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise InputError(f"{path} cannot be read as YAML: {error}") from error
        if not isinstance(content, dict):
            raise InputError(f"{path} has no keys: conf/loss/bt.yaml shows what a loss file holds")
        method = method_of(str(content.get("name", path.stem)), content, path)
        if method.name in found:
            raise InputError(f"{folder}: two files have name: {method.name}: rename one")
        found[method.name] = method
    for name in found:
        _check_base(name, found, folder)
    return found


def method_of(name: str, content: dict[str, Any], path: Path) -> Method:
    """Return the method that a file describes; missing keys: a rival, label and base by its name.

    Raises InputError for a label or base that is not a text, or an unknown role.
    """
    label, role = content.get("label", default_label(name)), content.get("role", "rival")
    base = content.get("base", default_base(name))
    if not isinstance(label, str) or not isinstance(base, str | None):
        raise InputError(f"{path}: label={label}, base={base}: give texts (base: null for none)")
    if role not in ROLES:
        raise InputError(f"{path}: role={role}: choose {', '.join(ROLES)}")
    return Method(name, label, base, role)


def default_label(name: str) -> str:
    """Return a name in words: "bt_square" gives "BT + square", "my_loss" gives "my loss"."""
    family, _, rest = name.partition("_")
    words = rest.replace("_", " ")
    if family not in FAMILIES:
        return name.replace("_", " ")
    return f"{FAMILIES[family]} + {words}" if words else FAMILIES[family]


def default_base(name: str) -> str | None:
    """Return X for "normbt_X", NormBT's weight on a loss X; "bt" for every other name but bt."""
    if name.startswith("normbt_"):
        return name.removeprefix("normbt_")
    return None if name == "bt" else "bt"


def _check_base(name: str, found: dict[str, Method], folder: Path) -> None:
    """Raise InputError for a base that no file has, or bases that form a circle."""
    base, seen = found[name].base, [name]
    if base not in (None, *found, default_base(name)):
        raise InputError(f"{folder}: {name} has base={base}, and no file has that name")
    while base is not None:
        seen.append(base)
        if base in seen[:-1]:
            raise InputError(f"{folder}: the bases of {name} go in a circle: {' → '.join(seen)}")
        base = found[base].base if base in found else default_base(base)
