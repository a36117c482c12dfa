"""Marks functions that look across pairs, so the global batch must be one micro-batch.

Classes (weights, distances) have an attribute `whole_batch` instead.
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
    """Whether `function`, or the function inside a `partial`, is marked by `whole_batch`."""
    decorated = function.func if isinstance(function, functools.partial) else function
    return bool(getattr(decorated, "whole_batch", False))
