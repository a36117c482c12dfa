"""The reward model: a causal backbone and a float32 score head.

On disk, a reward model is a plain `AutoModelForSequenceClassification` folder with one label. In
memory, `RewardModel` wraps it. The attention mask shows each row's last *real* token, and the score
head reads the hidden state there in float32.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from rm.errors import InputError
from rm.model.attention import SharedBatch, flex_plan, use_kernel
from rm.model.likelihood import head_of, log_likelihood


@dataclass
class RewardOutput:
    """`rewards` (rows,) and `hidden` (rows, hidden): both float32 (float64 for a float64 model).

    `mean` (rows, hidden): the mean state of each row's real tokens, if `keep_mean` is set.
    `log_likelihood` (rows,): of each row's targets, if the forward pass gets targets.
    """

    rewards: Tensor
    hidden: Tensor
    mean: Tensor | None = None
    log_likelihood: Tensor | None = None


class RewardModel(nn.Module):
    """Rewards and last-token hidden states of token rows.

    `classifier` is a sequence-classification model with one label whose backbone is a stack of
    decoder layers (such as Llama or Gemma). Matrix products of the backbone run in
    `compute_dtype` under autocast; the pooled hidden state, the head and everything after it stay
    in float32. `flex_attention`: shared rows attend in one kernel (`FlexPlan`), not row by row.
    """

    def __init__(self, classifier: PreTrainedModel, compute_dtype: torch.dtype) -> None:
        """Take the text part of `classifier`.

        Raises InputError if that is not a one-label model with a linear score head.
        """
        super().__init__()
        classifier = text_part(classifier)
        check_classifier(classifier)
        self.classifier = classifier
        self.compute_dtype = compute_dtype
        self.config = classifier.config
        self.keep_mean = False
        self.flex_attention = False
        # In a list, so that the backbone's layers are not registered twice.
        self._upper: list[nn.Module] = []

    @property
    def backbone(self) -> Any:
        """The decoder stack (`layers`, `norm`), without its head."""
        return self.classifier.base_model

    @property
    def score(self) -> nn.Module:
        """The score head w_s: Linear(hidden, 1), no bias (b_s cancels in every difference).

        `set_head` may have put another head here.
        """
        return cast(nn.Module, self.classifier.score)

    def run(self, stack: nn.Module, attention_mask: Tensor, **inputs: Any) -> Any:
        """Run a stack of decoder layers on rows (rows, length) with padding on either side."""
        positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        with self._autocast(attention_mask.device.type):
            return stack(
                **inputs, attention_mask=attention_mask, position_ids=positions, use_cache=False
            )

    def forward(
        self,
        attention_mask: Tensor | None = None,
        input_ids: Tensor | None = None,
        trunk_states: Tensor | None = None,
        shared: SharedBatch | None = None,
        targets: Tensor | None = None,
    ) -> RewardOutput:
        """Score rows given as token ids, or as the output of the frozen trunk (`rm.model.trunk`).

        attention_mask: (rows, length) int64, 1 at real tokens, padding on either side.
        input_ids: (rows, length) int64; or trunk_states: (rows, length, hidden).
        shared: the rows as one tree (`rm.model.attention`), instead of the three inputs above.
        targets: (rows, length) int64, next tokens for `log_likelihood` (`next_tokens`).
        """
        if shared is not None:
            if self.keep_mean:
                raise InputError("mean states need every token: set training.share_prefix=false")
            stack = self.backbone if shared.trunk_states is None else self.upper_stack
            return self._output(self.shared_states(stack, shared)[0, shared.last])
        assert attention_mask is not None
        if trunk_states is None:
            found = self.run(self.backbone, attention_mask, input_ids=input_ids)
        else:
            embeddings = trunk_states.to(self.state_dtype)
            found = self.run(self.upper_stack, attention_mask, inputs_embeds=embeddings)
        states = found.last_hidden_state
        output = self._output(last_real_token(states, attention_mask))
        if self.keep_mean:
            output.mean = mean_of_real_tokens(states, attention_mask)
        if targets is not None:
            with self._autocast(states.device.type):
                head = head_of(self.classifier)
                output.log_likelihood = log_likelihood(states, targets, head)
        return output

    def shared_states(self, stack: Any, batch: SharedBatch) -> Tensor:
        """Output (1, tokens, hidden) of `stack`, the backbone or a part of it, on a shared batch.

        Output and gradients equal those of the separate rows up to floating-point summation. With
        dropout, rows share the draw of their common prefix. The first call makes the model's
        attention follow plans (`use_kernel`). Raises InputError if the model does not use SDPA.
        `rm.model.checks` says whether the backbone can share prefixes.
        """
        use_kernel(self.classifier)
        inputs: dict[str, Any] = {"input_ids": batch.input_ids}
        if batch.trunk_states is not None:
            inputs = {"inputs_embeds": batch.trunk_states.to(self.state_dtype)}
        device = batch.position_ids.device
        with self._autocast(device.type):
            return stack(
                **inputs,
                # transformers makes no mask of its own when it gets a 4-D mask.
                attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),
                position_ids=batch.position_ids,
                use_cache=False,
                attention_plan=flex_plan(batch.plan) if self.flex_attention else batch.plan,
            ).last_hidden_state

    def _output(self, hidden: Tensor) -> RewardOutput:
        """Return hidden states (rows, hidden) and their rewards, in float32 or wider."""
        hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        return RewardOutput(self._head(hidden), hidden)

    @property
    def upper_stack(self) -> nn.Module:
        """The trained layers above the frozen trunk. Raises ValueError before `divide`."""
        if not self._upper:
            raise ValueError("trunk states were given, but the backbone was never divided")
        return self._upper[0]

    @property
    def state_dtype(self) -> torch.dtype:
        """Dtype of the residual stream: float32 at least (see `lower_precision`)."""
        return torch.promote_types(self.compute_dtype, torch.float32)

    def divide(self, upper_stack: nn.Module) -> None:
        """Set the stack that runs on trunk states (`rm.model.trunk.split_backbone` makes it)."""
        self._upper = [upper_stack]

    def _autocast(self, device: str) -> contextlib.AbstractContextManager[Any]:
        if self.compute_dtype in (torch.float32, torch.float64):
            return contextlib.nullcontext()
        return torch.autocast(device, dtype=self.compute_dtype)

    def _head(self, hidden: Tensor) -> Tensor:
        """Apply the head outside any autocast, as a module (so that ZeRO-3 gathers its weight)."""
        with torch.autocast(hidden.device.type, enabled=False):
            return self.score(hidden).squeeze(-1)


def last_real_token(states: Tensor, attention_mask: Tensor) -> Tensor:
    """Gather (rows, hidden) from `states` (rows, length, hidden) at each row's last real token.

    Only the attention mask gives the position, never a token's id: a pad token may also end turns,
    and its first match would lie inside the conversation.
    """
    places = torch.arange(states.shape[1], device=states.device)
    last = (attention_mask * places).argmax(-1)
    return states[torch.arange(states.shape[0], device=states.device), last]


def mean_of_real_tokens(states: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean (rows, hidden), float32 or wider, of `states` (rows, length, hidden) at real tokens."""
    wide = states.to(torch.promote_types(states.dtype, torch.float32))
    mask = attention_mask.unsqueeze(-1).to(wide.dtype)
    return (wide * mask).sum(dim=1) / mask.sum(dim=1)


def miniature(
    model: RewardModel, layers: Sequence[int] | None = None, window: int | None = None
) -> RewardModel:
    """A small random float32 model of the same architecture, for capability checks.

    In it, a wrong computation differs by more than rounding, whatever the backbone's size.
    `layers`: the backbone's layers whose attention types it copies (None: one of each type, at
    least two layers). `window`: length of the sliding window in tokens (None: the backbone's). The
    random state is restored.
    """
    config = copy.deepcopy(model.config)
    kinds = getattr(config, "layer_types", None) or []
    if layers is None:
        layers = [kinds.index(kind) for kind in dict.fromkeys(kinds)]
        layers = layers if len(layers) > 1 else [0, 0]
    config.num_hidden_layers, config.vocab_size, config.pad_token_id = len(layers), 16, 0
    if kinds:
        config.layer_types = [kinds[index] for index in layers]
    if window is not None and getattr(config, "sliding_window", None):
        config.sliding_window = window
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = type(model.classifier)(config)
    return RewardModel(classifier.float(), torch.float32).eval()


def text_part(model: PreTrainedModel) -> PreTrainedModel:
    """The language part of a multimodal model, as a separate classifier.

    Only this part is trained and saved, without the vision and audio towers. It keeps
    the score head, or gets one that the caller must draw. A text-only model is returned unchanged.
    Raises InputError if transformers has no classifier for the language part.
    """
    config = model.config.get_text_config(decoder=True)
    if config is model.config:
        return model
    config.num_labels = 1
    try:
        with torch.device("meta"):
            alone = AutoModelForSequenceClassification.from_config(config)
    except ValueError as error:
        raise InputError(
            f"transformers has no reward model for the text part of {type(model).__name__} "
            f"({config.model_type}): take another backbone"
        ) from error
    setattr(alone, alone.base_model_prefix, model.get_decoder())
    head = getattr(model, "score", None)
    alone.score = nn.Linear(config.hidden_size, 1, bias=False) if head is None else head
    return alone


def check_classifier(classifier: nn.Module) -> None:
    """Raise InputError unless `classifier` has one label and a linear head named `score`."""
    head = getattr(classifier, "score", None)
    if not isinstance(head, nn.Linear) or head.out_features != 1:
        raise InputError(
            f"{type(classifier).__name__} is not a reward model: it needs a linear head `score` "
            "with one output (an AutoModelForSequenceClassification of a decoder, num_labels=1)"
        )


def set_head(model: RewardModel, kind: str, seed: int) -> None:
    """Insert layers before the linear head, which stays the last layer (rival heads).

    layer_norm: LayerNorm(hidden), so that distances do not depend on the norms of the states. mlp:
    Linear(hidden, hidden), GELU. The configuration stores the kind as `reward_head`. Only
    `load_reward_model` reads such a checkpoint. "linear" changes nothing. Raises InputError for any
    other kind.
    """
    if kind != "linear":
        model.classifier.score = _make_head(kind, cast(nn.Linear, model.score), seed)
        model.config.reward_head = kind


def _make_head(kind: str, last: nn.Linear, seed: int) -> nn.Sequential:
    width = last.in_features
    if kind == "layer_norm":
        return nn.Sequential(nn.LayerNorm(width), last)
    if kind != "mlp":
        raise InputError(f"loss.head={kind}: choose linear, layer_norm or mlp")
    first = nn.Linear(width, width, device=last.weight.device)
    if not first.weight.is_meta:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            first.weight.copy_(torch.randn(width, width, generator=generator) / width**0.5)
            first.bias.zero_()
    return nn.Sequential(first, nn.GELU(), last)
