"""Candidates of one prompt: independent draws whose labels code verifies."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest

from generated import SUBSETS, verify
from generated import candidates as module
from generated.candidates import Asked, Candidate, ask, candidates
from rm.errors import InputError

KINDS = SUBSETS["Reasoning"]


def drawn(asked: list[Asked], n: int, variants: int) -> list[tuple[str, str, Candidate]]:
    """Return (subset, prompt, candidate), n candidates of each prompt."""
    return [
        (one.subset, one.prompt, candidate)
        for one in asked
        for candidate in candidates(one, n, random.Random(one.key), right=0.3, variants=variants)
    ]


def test_code_agrees_with_every_label_and_three_in_ten_are_right() -> None:
    made = drawn(ask("test", 240, 0), 16, 4)
    assert {subset for subset, _, _ in made} == set(KINDS)
    wrong = [one for one in set(made) if verify(one[0], one[1], one[2].text) is not one[2].right]
    assert wrong == []
    assert sum(one.right for _, _, one in made) / len(made) == pytest.approx(0.3, abs=0.03)


def test_candidates_follow_from_the_prompt_and_the_generator_alone() -> None:
    first, second = ask("test", 2, 0)
    assert ask("test", 8, 0)[:2] == [first, second]
    assert ask("test", 2, 1) != [first, second]

    def of(seed: int) -> list[Candidate]:
        return candidates(first, 16, random.Random(seed), right=0.3, variants=4)

    assert of(1) == of(1) != of(2)
    train, test = ({one.prompt for one in ask(split, 300, 0)} for split in ("train", "test"))
    assert len(train) == len(test) == 300 and not train & test


@pytest.mark.parametrize("subset", KINDS)
def test_a_prompt_has_several_faults(subset: str) -> None:
    for asked in ask("test", 10, 0, [subset]):
        many = candidates(asked, 200, random.Random(0), right=0.3, variants=40)
        assert len({one.text for one in many if not one.right}) >= 2
        few = candidates(asked, 200, random.Random(0), right=0.3, variants=1)
        assert Counter(one.right for one in set(few)) == {True: 1, False: 1}


@pytest.mark.parametrize("subset", ["gen2-arithmetic-close", "gen2-arithmetic-far"])
def test_the_wording_does_not_tell_right_from_wrong(subset: str) -> None:
    openings: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for _, _, one in drawn(ask("test", 500, 0, [subset]), 16, 4):
        bare = re.sub(r"[-+*/]", "?", re.sub(r"\d+", "#", one.text))
        openings[one.right][bare[:9]] += 1
    common = [opening for opening, count in openings[True].items() if count > 100]
    assert len(common) > 2
    for opening in common:
        share, other = (openings[side][opening] / openings[side].total() for side in (True, False))
        assert share == pytest.approx(other, abs=0.04)


def test_the_answers_to_a_close_task_differ_in_what_they_say_alone() -> None:
    """Numbers and signs aside, all candidates of one prompt are the same text."""
    for how, alike in (("close", True), ("far", False)):
        made = drawn(ask("test", 20, 0, [f"gen2-arithmetic-{how}"]), 16, 8)
        wordings: dict[str, set[str]] = {}
        for _, prompt, one in made:
            bare = re.sub(r"[-+*/]", "?", re.sub(r"\d+", "#", one.text))
            wordings.setdefault(prompt, set()).add(bare)
        assert all((len(found) == 1) == alike for found in wordings.values())


def test_what_cannot_be_drawn_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        InputError, match="for 'gen-units': choose from gen2-arithmetic-close, gen2"
    ):
        ask("test", 1, 0, ["gen-units"])
    with pytest.raises(InputError, match="0 prompts were asked for"):
        ask("test", 0, 0)
    only = Asked(KINDS[0], "the only one", "", tuple)
    monkeypatch.setattr(module, "_asked", lambda *_: only)
    with pytest.raises(InputError, match="only 1 different prompts exist, not 2"):
        ask("test", 2, 0)
