"""How much memory a training step needs beside the model's states: the step is run without data.

Under torch's FakeTensorMode every operation of the real model is dispatched, with tensors that have
shape and dtype but no storage. Counting what is alive gives the peak that an allocator would see:
activations, gradients on their way, autocast's copies of weights and temporaries, for any
architecture, with gradient checkpointing or LoRA as they really run. Workspaces inside a kernel are
not seen.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rm.model.reward_model import RewardModel
from rm.objective.losses import bt


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operations make: bytes alive now, and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the operation and note its outputs' storages."""
        inputs = {id(s) for s in map(_storage, tree_leaves((args, kwargs))) if s is not None}
        made = func(*args, **(kwargs or {}))
        for storage in map(_storage, tree_leaves(made)):
            if storage is not None and id(storage) not in inputs and storage not in self._known:
                self._note(storage)
        return made

    def _note(self, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()
        self._known[storage] = size
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, size)

    def _drop(self, size: int) -> None:
        self.live -= size


def _storage(value: Any) -> torch.UntypedStorage | None:
    return value.untyped_storage() if isinstance(value, Tensor) else None


def step_bytes(model: RewardModel, rows: int, length: int) -> int:
    """Peak bytes of a forward and backward pass over token ids (rows, length), one micro-batch.

    `model`: on the meta device, with `train_part` and checkpointing done; its parameters are
    replaced by fake ones, so that it is of no other use afterwards. Parameters are not in the
    count, nor are gradients once they are made: where they stay, they are among the model's states.
    The rows are padded: attention gets a mask.
    """
    with FakeTensorMode():
        _make_fake(model)
        ids = torch.zeros(rows, length, dtype=torch.long)
        counter = LiveBytes()
        with counter:
            run_step(model, ids, torch.ones_like(ids))
    return counter.peak


def run_step(model: RewardModel, ids: Tensor, mask: Tensor) -> None:
    """Forward and backward of the BT loss; every gradient is dropped once it is accumulated."""
    for value in model.parameters():
        if value.requires_grad:
            value.register_post_accumulate_grad_hook(_drop_gradient)
    model.train()
    chosen, rejected = model(mask, input_ids=ids).rewards.chunk(2)
    bt(chosen - rejected).mean().backward()


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


def _make_fake(model: nn.Module) -> None:
    for module in model.modules():
        for name, value in module._parameters.items():
            if value is not None:
                made = torch.empty(value.shape, dtype=value.dtype)
                module._parameters[name] = nn.Parameter(made, requires_grad=value.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
