"""The garbage collector passes over what is there to stay, and over nothing else."""

from __future__ import annotations

import gc
import weakref

import pytest

from rm.data.tokens import settled


class Node:
    """Something that can be in a cycle."""

    me: Node


def cycle() -> weakref.ref[Node]:
    node = Node()
    node.me = node
    return weakref.ref(node)


def test_new_garbage_is_collected_and_old_objects_are_free_again_afterwards() -> None:
    gc.collect()
    old = cycle()
    with settled():
        assert gc.get_freeze_count() > 0
        new = cycle()
        gc.collect()
        assert new() is None and old() is not None
    assert gc.get_freeze_count() == 0
    gc.collect()
    assert old() is None


def test_an_error_in_the_block_frees_them_too() -> None:
    with pytest.raises(ValueError), settled():
        raise ValueError
    assert gc.get_freeze_count() == 0
