"""The held-out prompts that a policy answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from generated import GeneratedPair
from rm.data.preferences import Message, PreferencePair
from rm.errors import InputError
from rm.provenance import fingerprint_of


@dataclass(frozen=True)
class Prompt:
    """One held-out prompt; `subset` names the generated subset (for the verifier) or is empty."""

    prompt_id: str
    turns: tuple[Message, ...]
    subset: str = ""


def prompts_of_pairs(pairs: Iterable[PreferencePair]) -> list[Prompt]:
    """Return the distinct prompts of preference pairs, in order."""
    seen: dict[str, Prompt] = {}
    for pair in pairs:
        seen.setdefault(turns_key(pair.prompt), Prompt(pair.pair_id, pair.prompt))
    return list(seen.values())


def turns_key(turns: Sequence[Message]) -> str:
    """Fingerprint of a conversation."""
    return fingerprint_of(list(turns))


def prompts_of_generated(made: Iterable[GeneratedPair]) -> list[Prompt]:
    """Return the prompts of generated pairs, each with its subset."""
    return [Prompt(one.pair.pair_id, one.pair.prompt, one.subset) for one in made]


def choose(prompts: Sequence[Prompt], number: int) -> list[Prompt]:
    """Take `number` prompts, equally many of each subset while it has some left, in order.

    Prompts in random order give a random sample. Raises InputError if there are fewer.
    """
    if not 0 < number <= len(prompts):
        raise InputError(
            f"bon.prompts.number={number}: only {len(prompts)} prompts are available; give a "
            f"number from 1 to {len(prompts)}"
        )
    turn: dict[str, int] = {}
    ranked = []
    for place, prompt in enumerate(prompts):
        turn[prompt.subset] = turn.get(prompt.subset, 0) + 1
        ranked.append((turn[prompt.subset], place))
    taken = sorted(place for _, place in sorted(ranked)[:number])
    return [prompts[place] for place in taken]


def as_json(prompt: Prompt) -> dict[str, Any]:
    """Return the prompt's fields as JSON-ready values."""
    return {**asdict(prompt), "turns": list(prompt.turns)}
