"""N samples of a prompt by transformers' `generate`.

Every prompt has its own random stream, seeded by (seed, prompt id). So its samples do not depend on
which other prompts are decoded beside it, or in what order (in exact arithmetic: a rounding error
of the logits can move a draw that lies on a boundary).
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rm.data.preferences import Message
from rm.data.templates import ChatTemplate
from rm.data.tokens import pad, shorter_prompts
from rm.errors import InputError
from rm.model.untrusted import explained, load

HEAD = 256
"""Number of likeliest tokens that are sorted first; if too few, the whole vocabulary is."""


@dataclass(frozen=True)
class Decoding:
    """How a policy is sampled.

    `temperature` 0 is greedy; `top_p` keeps the smallest set of tokens whose probability reaches
    it; at most `rows` samples, of one prompt or of several, are decoded at a time.
    """

    samples: int
    temperature: float
    top_p: float
    max_new_tokens: int
    seed: int
    rows: int = 64

    def check(self) -> None:
        """Raise InputError for a value that makes no sense."""
        for name in ("samples", "max_new_tokens", "rows"):
            if getattr(self, name) < 1:
                raise InputError(f"bon.policy.{name}={getattr(self, name)}: must be 1 or more")
        if self.temperature < 0:
            raise InputError(f"bon.policy.temperature={self.temperature}: must be 0 or more")
        if not 0 < self.top_p <= 1:
            raise InputError(f"bon.policy.top_p={self.top_p}: must lie in (0, 1]")


@dataclass(frozen=True)
class PolicyText:
    """What a policy needs to read and write: tokenizer, end-of-turn tokens, context length."""

    tokenizer: PreTrainedTokenizerBase
    stops: frozenset[int]
    context: int

    @classmethod
    def of_folder(cls, folder: Path) -> PolicyText:
        """Read it from a model folder; the weights are not loaded."""
        with explained(folder):
            tokenizer = load(AutoTokenizer, folder)
            config = load(AutoConfig, folder).get_text_config(decoder=True)
            declared = [config.eos_token_id]
            if (folder / "generation_config.json").is_file():
                declared.append(GenerationConfig.from_pretrained(folder).eos_token_id)
            context = getattr(config, "max_position_embeddings", None) or 2**31
            return cls(tokenizer, stop_tokens(tokenizer, declared), int(context))


def stop_tokens(
    tokenizer: PreTrainedTokenizerBase, declared: Sequence[int | list[int] | None]
) -> frozenset[int]:
    """Tokens that end a response: those declared, the tokenizer's eos, and the end of a turn.

    Gemma's generation config knows `<eos>` alone, but its turns end with `<end_of_turn>`: the last
    special token of a templated conversation.
    """
    turn = ChatTemplate(tokenizer).encode([{"role": "user", "content": "a"}], "b")
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    stops = {tokenizer.eos_token_id, next(token for token in reversed(turn) if token in special)}
    for one in declared:
        stops.update(one if isinstance(one, list) else [one])
    return frozenset(token for token in stops if token is not None)


def encode_prompt(policy: PolicyText, turns: Sequence[Message], new_tokens: int) -> list[int]:
    """Token ids of a prompt that opens the assistant's turn, with room for `new_tokens`.

    If the prompt does not fit the context, its oldest exchanges are removed first. Raises
    InputError if the last user turn alone does not fit.
    """
    template = ChatTemplate(policy.tokenizer)
    for used in shorter_prompts(turns):
        ids = template.render(used, add_generation_prompt=True)
        if len(ids) + new_tokens <= policy.context:
            return ids
    raise InputError(
        f"a prompt of {len(ids)} tokens with {new_tokens} new ones does not fit the policy's "
        f"context of {policy.context}: lower bon.policy.max_new_tokens or leave the prompt out"
    )


@torch.inference_mode()
def decode(
    model: PreTrainedModel,
    stops: frozenset[int],
    prompts: Mapping[str, Sequence[int]],
    settings: Decoding,
) -> dict[str, list[list[int]]]:
    """Sample `settings.samples` continuations of every prompt (id → token ids) with `generate`.

    All prompts are decoded together; each is read once, and its cache is repeated for its samples.
    At most `settings.rows` samples of a prompt are decoded at a time. Returns token ids without
    the prompt, ending with the stop token; a continuation without one was cut at `max_new_tokens`.
    Replaces the model's generation config, so that only `settings` decide how tokens are drawn.
    """
    ends = sorted(stops)
    model.generation_config = GenerationConfig(
        max_new_tokens=settings.max_new_tokens, eos_token_id=ends, pad_token_id=ends[0]
    )
    written: dict[str, list[list[int]]] = {name: [] for name in prompts}
    ids, mask = (part.to(model.device) for part in pad(list(prompts.values()), ends[0], "left"))
    read = _read(model, ids[:, :-1], mask[:, :-1])
    for first in range(0, settings.samples, settings.rows):
        count = min(settings.rows, settings.samples - first)
        cache = copy.deepcopy(read)
        cache.batch_repeat_interleave(count)
        seeds = [stream_seed(settings.seed, name, first) for name in prompts]
        output = model.generate(  # type: ignore[operator]
            ids.repeat_interleave(count, dim=0),
            attention_mask=mask.repeat_interleave(count, dim=0),
            past_key_values=cache,
            logits_processor=LogitsProcessorList([DrawnTokens(settings, seeds, model.device)]),
        )
        for row, tokens in enumerate(output[:, ids.shape[1] :].tolist()):
            written[list(prompts)[row // count]].append(_until_stop(tokens, stops))
    return written


def _read(model: PreTrainedModel, ids: Tensor, mask: Tensor) -> DynamicCache:
    """Compute the cache of all ids (prompts, tokens) but the last of each, left to `generate`."""
    cache = DynamicCache(config=model.config)
    if ids.shape[1]:
        places = (mask.cumsum(-1) - 1).clamp(min=0)
        known = {"past_key_values": cache, "use_cache": True, "logits_to_keep": 1}
        model(input_ids=ids, attention_mask=mask, position_ids=places, **known)
    return cache


class DrawnTokens(LogitsProcessor):
    """Draws one token per row by temperature and top-p, and leaves `generate` only that token.

    Each prompt's rows draw from the prompt's own random stream (`seeds`), for which `generate` has
    no argument. So a prompt's samples do not depend on what is decoded beside it.
    """

    def __init__(self, settings: Decoding, seeds: Sequence[int], device: torch.device) -> None:
        self.settings = settings
        self.streams = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (rows, vocabulary) → 0 for the drawn token of each row, -inf for all others."""
        if self.settings.temperature == 0:
            return scores
        parts = zip(scores.chunk(len(self.streams)), self.streams, strict=True)
        tokens = torch.cat([self._draw(part, stream) for part, stream in parts])
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens, 0.0)

    def _draw(self, scores: Tensor, stream: torch.Generator, head: int = HEAD) -> Tensor:
        """Draw one token per row, (rows, 1) int64, from the smallest set that reaches top-p.

        Only the `head` likeliest tokens are sorted if they surely contain that set: sorting a
        vocabulary of 50,000 costs more than the model's step.
        """
        probability = (scores / self.settings.temperature).softmax(-1)
        likely, tokens = probability.topk(min(head, scores.shape[1]))
        reached = likely.double().cumsum(-1)
        if head < scores.shape[1] and (reached[:, -1] < self.settings.top_p).any():
            return self._draw(scores, stream, scores.shape[1])
        kept = likely * (reached - likely < self.settings.top_p)
        return tokens.gather(1, torch.multinomial(kept, 1, generator=stream))


def stream_seed(seed: int, prompt_id: str, sample: int) -> int:
    """Seed (56 bits) of the random stream for a prompt's samples, from number `sample` on."""
    key = f"{seed}/{prompt_id}/{sample}".encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:7], "big")


def _until_stop(tokens: Sequence[int], stops: frozenset[int]) -> list[int]:
    """Remove the padding that `generate` appends to a finished sequence."""
    end = next((place for place, token in enumerate(tokens) if token in stops), len(tokens))
    return list(tokens[: end + 1])
