"""Which functions look across pairs, so that a global batch must not be divided.

Classes (weights, distances) say so by their attribute `whole_batch`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def whole_batch(function: Function) -> Function:
    """Decorate a function whose result for a pair depends on the other pairs of its batch."""
    function.whole_batch = True  # type: ignore[attr-defined]
    return function


def needs_whole_batch(function: Callable[..., Any] | None) -> bool:
    """Whether a function, or the one behind a partial function, is decorated so."""
    decorated = function.func if isinstance(function, functools.partial) else function
    return bool(getattr(decorated, "whole_batch", False))
