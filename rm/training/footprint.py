"""How much memory a training step needs on top of the model's states, measured without data.

torch's FakeTensorMode runs every operation of the real model on tensors with shape and dtype but
without storage. We count the live bytes, and so get the peak that an allocator would see:
activations, temporary gradients, autocast's copies of weights, and other temporaries. It works for
any architecture, also with gradient checkpointing or LoRA. It misses workspaces inside kernels.
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
    """Counts the bytes of storages that operations create: `live` now, and their `peak`."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the operation and count the new storages among its outputs."""
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
    """Peak bytes of a forward and backward pass over one micro-batch of token ids (rows, length).

    `model`: on the meta device, after `train_part` and with checkpointing set. Its parameters are
    replaced by fake ones, so do not use it afterwards. Parameters and finished gradients are not
    counted: they belong to the model's states. Attention gets a mask, as for padded rows.
    """
    with FakeTensorMode():
        _make_fake(model)
        ids = torch.zeros(rows, length, dtype=torch.long)
        counter = LiveBytes()
        with counter:
            run_step(model, ids, torch.ones_like(ids))
    return counter.peak


def run_step(model: RewardModel, ids: Tensor, mask: Tensor) -> None:
    """Forward and backward of the BT loss; drops every gradient once it is accumulated."""
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
