"""N responses to every prompt, in a file that grows by one whole line per prompt.

A prompt that has a line is not sampled again; a last line cut short by a kill is dropped.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import PreTrainedModel

from eval.best_of_n.decoding import Decoding, PolicyText, decode, encode_prompt
from eval.best_of_n.prompts import Prompt, as_json
from rm.errors import InputError
from rm.files import atomic_write_bytes, writing
from rm.provenance import fingerprint_of


@dataclass(frozen=True)
class Response:
    """One sample: `finished` is False if the token limit cut it; `empty` is True without text."""

    text: str
    tokens: int
    finished: bool
    empty: bool


@dataclass(frozen=True)
class Sampled:
    """A prompt with its N responses, or with the reason why it was skipped."""

    prompt: Prompt
    responses: tuple[Response, ...]
    skipped: str | None = None

    @property
    def texts(self) -> list[str]:
        """The response texts, in sample order."""
        return [response.text for response in self.responses]


Sampler = Callable[[Sequence[Prompt]], list[Sampled]]
"""Gives every prompt its N responses, or the reason why it cannot be answered."""


def transformers_sampler(model: PreTrainedModel, policy: PolicyText, settings: Decoding) -> Sampler:
    """Sample with `generate` of a transformers model."""

    def sample(prompts: Sequence[Prompt]) -> list[Sampled]:
        ids, skipped = encode_all(policy, prompts, settings.max_new_tokens)
        written = decode(model, policy.stops, ids, settings) if ids else {}
        return [answered(policy, one, written, skipped) for one in prompts]

    return sample


def encode_all(
    policy: PolicyText, prompts: Sequence[Prompt], new_tokens: int
) -> tuple[dict[str, list[int]], dict[str, str]]:
    """Token ids by prompt id, and by id why a prompt does not fit the context."""
    ids, skipped = {}, {}
    for prompt in prompts:
        try:
            ids[prompt.prompt_id] = encode_prompt(policy, prompt.turns, new_tokens)
        except InputError as error:
            skipped[prompt.prompt_id] = str(error)
    return ids, skipped


def answered(
    policy: PolicyText,
    prompt: Prompt,
    written: Mapping[str, Sequence[Sequence[int]]],
    skipped: Mapping[str, str],
) -> Sampled:
    """Join a prompt with its responses, or with the reason why it has none."""
    if prompt.prompt_id in skipped:
        return Sampled(prompt, (), skipped[prompt.prompt_id])
    return Sampled(prompt, tuple(respond(policy, ids) for ids in written[prompt.prompt_id]))


def sample_all(
    prompts: Sequence[Prompt],
    open_sampler: Callable[[], Sampler],
    path: Path,
    at_once: int = 1,
    by_ranks: Callable[[], None] | None = None,
) -> list[Sampled]:
    """Sample every prompt that `path` does not hold yet; return all, in the order of `prompts`.

    `open_sampler` loads the policy and is not called if nothing is left; it gets `at_once` prompts
    together. `by_ranks`, if given, makes several ranks sample instead, each by `sample_share`. A
    prompt that does not fit the policy's context is recorded as skipped. Raises InputError if two
    prompts share an id, if all prompts were skipped, or if every response is empty.
    """
    if len({prompt.prompt_id for prompt in prompts}) < len(prompts):
        raise InputError("two prompts have the same id: give each prompt its own id")
    _gather(path)  # samples that the ranks of a killed call left
    if _left(prompts, path):
        if by_ranks is None:
            sample_share(prompts, open_sampler, path, at_once)
        else:
            by_ranks()
            _gather(path)
    known = read_samples(path)
    return _usable([known[_key(prompt)] for prompt in prompts])


def sample_share(
    prompts: Sequence[Prompt],
    open_sampler: Callable[[], Sampler],
    path: Path,
    at_once: int,
    rank: int = 0,
    ranks: int = 1,
) -> None:
    """Sample this rank's share of the prompts that `path` does not hold yet.

    Prompts go to the policy in the same groups of `at_once` for any number of ranks, so the samples
    are the same. Each of several ranks writes its own file beside `path`; `sample_all` gathers
    them.
    """
    left = _left(prompts, path)
    groups = [left[start : start + at_once] for start in range(0, len(left), at_once)][rank::ranks]
    own = path if ranks == 1 else path.with_suffix(f".rank{rank}.jsonl")
    if not groups:
        return
    sampler = open_sampler()
    with tqdm(total=sum(map(len, groups)), desc="sample", unit="prompt") as bar:
        for group in groups:
            for sampled in sampler(group):
                _append(own, sampled)
                bar.update()


def _left(prompts: Sequence[Prompt], path: Path) -> list[Prompt]:
    known = read_samples(path)
    return [prompt for prompt in prompts if _key(prompt) not in known]


def _gather(path: Path) -> None:
    """Move what ranks have written beside `path` into it."""
    known = read_samples(path)
    for own in sorted(path.parent.glob(f"{path.stem}.rank*.jsonl")):
        for key, sampled in read_samples(own).items():
            if key not in known:
                _append(path, sampled)
                known[key] = sampled
        own.unlink()


def respond(policy: PolicyText, ids: Sequence[int]) -> Response:
    """Decode token ids into a response (special tokens left out), with its marks."""
    text = str(policy.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()
    return Response(text, len(ids), bool(ids) and ids[-1] in policy.stops, not text)


def _usable(sampled: list[Sampled]) -> list[Sampled]:
    skipped = [one for one in sampled if one.skipped]
    if len(skipped) == len(sampled):
        raise InputError(f"all {len(sampled)} prompts were skipped: {skipped[0].skipped}")
    counts = marks(sampled)
    if counts["empty"] == counts["responses"]:
        raise InputError(
            f"the policy answered all {counts['prompts']} prompts with empty text: check its chat "
            "template and that it is an instruction-tuned causal model (bon.policy.model)"
        )
    return sampled


def marks(sampled: Sequence[Sampled]) -> dict[str, int]:
    """Count prompts, skipped prompts, responses, empty and cut ones, tokens, distinct texts."""
    counts: Counter[str] = Counter(prompts=0, skipped=0, responses=0, empty=0, cut=0, tokens=0)
    for one in sampled:
        counts["skipped" if one.skipped else "prompts"] += 1
        counts["distinct"] += len(set(one.texts))
        for response in one.responses:
            counts["responses"] += 1
            counts["empty"] += response.empty
            counts["cut"] += not response.finished
            counts["tokens"] += response.tokens
    return dict(counts)


def marks_line(counts: dict[str, int]) -> str:
    """Return the counts in one line, for people."""
    return (
        f"{counts['responses']:,} responses to {counts['prompts']:,} prompts, "
        f"{counts['distinct']:,} distinct, {counts['cut']:,} cut at the token limit, "
        f"{counts['empty']:,} empty; {counts['skipped']:,} prompts skipped (too long)"
    )


def _key(prompt: Prompt) -> str:
    return json.dumps(as_json(prompt), sort_keys=True)


def _append(path: Path, sampled: Sampled) -> None:
    record: dict[str, Any] = {
        **as_json(sampled.prompt),
        "responses": [asdict(response) for response in sampled.responses],
        "skipped": sampled.skipped,
    }
    record["checksum"] = fingerprint_of(record)
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_samples(path: Path) -> dict[str, Sampled]:
    """Read the prompts of a samples file, keyed by content; remove a last line that was cut short.

    Raises InputError if any other line is broken or was changed.
    """
    if not path.is_file():
        return {}
    whole, _, cut = path.read_bytes().rpartition(b"\n")
    if cut:
        atomic_write_bytes(path, whole + b"\n" if whole else b"")
    known = {}
    for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
        try:
            sampled = _parse(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}, line {number} is not a prompt with its responses: delete the file"
            ) from error
        known[_key(sampled.prompt)] = sampled
    return known


def _parse(record: dict[str, Any]) -> Sampled:
    checksum = record.pop("checksum", None)
    if checksum not in (None, fingerprint_of(record)):
        raise ValueError("not as it was written")
    prompt = Prompt(record["prompt_id"], tuple(record["turns"]), record["subset"])
    responses = tuple(Response(**response) for response in record["responses"])
    return Sampled(prompt, responses, record["skipped"])
