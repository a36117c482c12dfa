"""The gold score, which stands for the truth: a reward model's, or the result of running code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from eval.scoring import Scorer, grouped_rewards
from generated import verify
from rm.data.schemas import Answer, Message, answer_turns
from rm.data.tokens import Row
from rm.errors import InputError

GroupedRewards = Callable[[Scorer, Sequence[Sequence[Row]]], list[list[float]]]
"""Rewards of every group's rows, such as the N responses to one prompt."""


@dataclass(frozen=True)
class Candidates:
    """Answers to one prompt that are to be scored; only the verifier reads `subset`."""

    prompt: tuple[Message, ...]
    subset: str
    texts: tuple[Answer, ...]


class Gold(Protocol):
    """Scores responses; None where it cannot tell."""

    def score(self, items: Sequence[Candidates]) -> list[list[float | None]]:
        """Return one list per prompt, one value per response."""


class Verifier:
    """A true gold: 1 if code verifies that a response is right, 0 if it is wrong.

    Works on prompts of the generated data, whose subset says how to check them
    (`generated.verify`).
    """

    def score(self, items: Sequence[Candidates]) -> list[list[float | None]]:
        """Verify every response; None for prompts that code cannot check."""
        return [[self._one(item, text) for text in item.texts] for item in items]

    @staticmethod
    def _one(item: Candidates, answer: Answer) -> float | None:
        said = answer_turns(answer)[-1]["content"]
        right = verify(item.subset, item.prompt[-1]["content"], said)
        return None if right is None else float(right)


class RewardGold:
    """The reward of a sequence-classification model, with its own tokenizer and chat template.

    `truncated`: how many prompts of the last call were cut to the model's length.
    """

    def __init__(self, scorer: Scorer, rewards: GroupedRewards = grouped_rewards) -> None:
        """`rewards` scores token rows; another function may do so on several ranks."""
        self.scorer, self.rewards, self.truncated = scorer, rewards, 0

    def score(self, items: Sequence[Candidates]) -> list[list[float | None]]:
        """Score every response; no value is None."""
        encoded = [self.scorer.encode(item.prompt, item.texts) for item in items]
        self.truncated = sum(cut for _, cut in encoded)
        scored = self.rewards(self.scorer, [rows for rows, _ in encoded])
        return [list(values) for values in scored]


def require_all(
    scores: Sequence[Sequence[float | None]], items: Sequence[Candidates]
) -> list[list[float]]:
    """Return the scores if every response has one.

    Raises InputError, naming the subsets, if the verifier cannot check some responses.
    """
    missing = Counter(
        item.subset or "prompts that were not generated"
        for values, item in zip(scores, items, strict=True)
        if None in values
    )
    if missing:
        named = ", ".join(f"{name} ({count})" for name, count in missing.most_common())
        raise InputError(
            f"gold=verifier cannot check every response of {named}: use gold=reward_model, or "
            "bon.prompts.subsets that code can check (Reasoning without JavaScript, Chat Hard)"
        )
    return [[value for value in values if value is not None] for values in scores]
