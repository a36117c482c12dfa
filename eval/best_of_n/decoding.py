"""Decoding N samples of a prompt whose KV cache is computed once.

Sample i of a prompt reads its own stream of uniform numbers, seeded by (seed, prompt id, i): which
other prompts or samples are decoded, in what order or in what chunks, does not change it (in exact
arithmetic; a rounding error of the logits can move a draw that lies on a boundary).
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.cache_utils import DynamicCache, DynamicLayer

from rm.data.preferences import Message
from rm.data.tokens import ChatTemplate, shorter_prompts
from rm.errors import InputError
from rm.model.untrusted import load


@dataclass(frozen=True)
class Decoding:
    """How a policy is sampled.

    `temperature` 0 is greedy; `top_p` keeps the smallest set of tokens whose probability reaches
    it; `rows` samples are decoded at a time.
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
    """How a policy reads and writes: tokenizer, tokens that end its turn, context length."""

    tokenizer: PreTrainedTokenizerBase
    stops: frozenset[int]
    context: int

    @classmethod
    def of_folder(cls, folder: Path) -> PolicyText:
        """Read it from a model folder; the weights are not loaded."""
        tokenizer, config = load(AutoTokenizer, folder), load(AutoConfig, folder)
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
    """Token ids of a prompt, the assistant's turn opened, with room for `new_tokens`.

    Where it does not fit the context, the oldest exchanges go first. Raises InputError if the last
    user turn alone does not fit.
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
    """Sample `settings.samples` continuations of every prompt (id → token ids).

    Each prompt's cache is computed once, by itself; `settings.rows` samples, of one prompt or of
    several, are decoded at a time. Returns token ids without the prompt, the stop token last; a
    continuation that does not end with one was cut at `max_new_tokens`.
    """
    written: dict[str, list[list[int]]] = {name: [] for name in prompts}
    rows = [(name, index) for name in prompts for index in range(settings.samples)]
    started: dict[str, Started] = {}
    while rows:
        chunk = rows[: settings.rows]
        names = list(dict.fromkeys(name for name, _ in chunk))
        started = {name: started.get(name) or _start(model, prompts[name]) for name in names}
        if not all(started[name].can_join for name in names):
            chunk = [(name, index) for name, index in chunk if name == names[0]]
        rows = rows[len(chunk) :]
        noise = torch.stack([uniforms(settings, *row) for row in chunk]).to(model.device)
        batch = _join([started[name] for name, _ in chunk])
        for (name, _), tokens in zip(
            chunk, _decode_rows(model, stops, batch, noise, settings), strict=True
        ):
            written[name].append(tokens)
    return written


@dataclass
class Started:
    """A prompt that was read: its cache, its length, logits (1, vocabulary) of what follows."""

    cache: DynamicCache
    length: int
    logits: Tensor

    @property
    def can_join(self) -> bool:
        """Whether its cache can be padded to the length of another prompt's (no sliding window)."""
        return all(type(layer) is DynamicLayer for layer in self.cache.layers)


@dataclass
class Batch:
    """Rows that are decoded together, after prompts padded on the left to one length.

    cache: (rows) deep. mask: (rows, length) int64, 0 at padding. positions: (rows,) int64, of the
    next token. logits: (rows, vocabulary).
    """

    cache: DynamicCache
    mask: Tensor
    positions: Tensor
    logits: Tensor

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these, (kept,) int64; the logits are the caller's to renew."""
        self.cache.batch_select_indices(rows)
        self.mask, self.positions = self.mask[rows], self.positions[rows]

    def step(self, model: PreTrainedModel, tokens: Tensor) -> None:
        """Read one more token a row, (rows,) int64."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=-1)
        output = model(
            input_ids=tokens[:, None],
            attention_mask=self.mask,
            position_ids=self.positions[:, None],
            past_key_values=self.cache,
            use_cache=True,
        )
        self.positions, self.logits = self.positions + 1, output.logits[:, -1].float()


def _start(model: PreTrainedModel, prompt: Sequence[int]) -> Started:
    ids = torch.tensor([list(prompt)], device=model.device)
    cache = DynamicCache(config=model.config)
    output = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return Started(cache, len(prompt), output.logits[:, -1].float())


def _join(rows: Sequence[Started]) -> Batch:
    """One batch from the prompt of every row; equal ones are given as the same object."""
    lengths = torch.tensor([row.length for row in rows], device=rows[0].logits.device)
    longest = int(lengths.max())
    places = torch.arange(longest, device=lengths.device)
    mask = (places >= longest - lengths[:, None]).long()
    logits = torch.cat([row.logits for row in rows])
    if all(row is rows[0] for row in rows):
        cache = copy.deepcopy(rows[0].cache)
        cache.batch_repeat_interleave(len(rows))
        return Batch(cache, mask, lengths, logits)
    cache = DynamicCache()
    for index in range(len(rows[0].cache.layers)):
        layers = [row.cache.layers[index] for row in rows]
        keys, values = (
            torch.cat([_pad_left(getattr(layer, kind), longest) for layer in layers])
            for kind in ("keys", "values")
        )
        cache.update(keys, values, index)
    return Batch(cache, mask, lengths, logits)


def _pad_left(states: Tensor, length: int) -> Tensor:
    """Pad (1, heads, shorter, size) with zeros in front."""
    return torch.nn.functional.pad(states, (0, 0, length - states.shape[2], 0))


def uniforms(settings: Decoding, prompt_id: str, sample: int) -> Tensor:
    """Uniform numbers in [0, 1), one a step, (max_new_tokens,) float64, of one sample."""
    generator = torch.Generator().manual_seed(stream_seed(settings.seed, prompt_id, sample))
    return torch.rand(settings.max_new_tokens, generator=generator, dtype=torch.float64)


def stream_seed(seed: int, prompt_id: str, sample: int) -> int:
    """Seed (56 bits) of one sample's stream of random numbers."""
    key = f"{seed}/{prompt_id}/{sample}".encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:7], "big")


def _decode_rows(
    model: PreTrainedModel,
    stops: frozenset[int],
    batch: Batch,
    noise: Tensor,
    settings: Decoding,
) -> list[list[int]]:
    """Continue all rows of `batch` by `noise` (rows, steps); consumes the batch.

    Finished rows leave the batch once half of it is done.
    """
    written: list[list[int]] = [[] for _ in noise]
    alive = list(range(len(noise)))  # the batch's rows; some may be done
    for step in range(noise.shape[1]):
        tokens = pick(batch.logits, noise[alive, step], settings)
        for row, token in zip(alive, tokens.tolist(), strict=True):
            if not _done(written[row], stops):
                written[row].append(token)
        open_rows = [i for i, row in enumerate(alive) if not _done(written[row], stops)]
        if not open_rows or step + 1 == noise.shape[1]:
            break
        if 2 * len(open_rows) <= len(alive):
            kept = torch.tensor(open_rows, device=tokens.device)
            batch.keep(kept)
            alive, tokens = [alive[i] for i in open_rows], tokens[kept]
        batch.step(model, tokens)
    return written


def _done(tokens: Sequence[int], stops: Collection[int]) -> bool:
    return bool(tokens) and tokens[-1] in stops


def pick(logits: Tensor, uniform: Tensor, settings: Decoding, head: int = 256) -> Tensor:
    """Choose a token a row: logits (rows, vocabulary), uniform (rows,) in [0, 1) → (rows,) int64.

    Inverse of the cumulative distribution over tokens from the likeliest down (the lower id first
    among equals), cut off at top-p. Only the `head` likeliest are sorted where they surely hold all
    that top-p keeps: sorting a vocabulary of 50,000 costs more than the model's step.
    """
    if settings.temperature == 0:
        return logits.argmax(-1)
    probability = (logits / settings.temperature).softmax(-1)
    if head >= logits.shape[-1]:
        return _invert(*_descending(probability), uniform, settings.top_p)
    values, ids = probability.topk(head, sorted=False)
    order = ids.sort(-1)
    likely, places = _descending(values.gather(-1, order.indices))
    tokens = _invert(likely, order.values.gather(-1, places), uniform, settings.top_p)
    above_last = likely.double() * (likely > likely[:, -1:])
    unsure = above_last.sum(-1) < settings.top_p
    if unsure.any():
        tokens[unsure] = pick(logits[unsure], uniform[unsure], settings, logits.shape[-1])
    return tokens


def _descending(probability: Tensor) -> tuple[Tensor, Tensor]:
    likely, order = probability.sort(descending=True, stable=True, dim=-1)
    return likely, order


def _invert(likely: Tensor, ids: Tensor, uniform: Tensor, top_p: float) -> Tensor:
    """Read the token at `uniform` of the cumulative distribution of the kept part of `likely`."""
    before = likely.double().cumsum(-1) - likely
    kept = likely * (before < top_p)
    total = kept.double().cumsum(-1)
    place = torch.searchsorted(total, uniform[:, None] * total[:, -1:], right=True)
    last = (kept > 0).sum(-1, keepdim=True) - 1
    return ids.gather(-1, torch.minimum(place, last)).squeeze(-1)
