"""Preference pairs by task, fault and wrapping: made by templates, not collected from people.

Every subset exists twice: close (both answers share wording, style, opening and closing, so that
only the fault differs) and far (each answer draws them for itself). Labels of Reasoning and Chat
Hard can be re-derived from the text by `verify`; those of Chat and Safety hold by construction.
Prompts, entities and the numbers in prompts are disjoint between the splits.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from generated import calculations, code, conversations, instructions, stances
from generated.core import SPLITS, Draw, Split
from generated.task import Contrast, Task, contrast
from rm.data.preferences import PreferencePair
from rm.errors import InputError

MAKERS: dict[str, dict[str, Callable[[Draw], Task]]] = {
    "Chat": {
        "explain": conversations.explain,
        "howto": conversations.howto,
        "ideas": conversations.ideas,
        "writing": conversations.writing,
    },
    "Chat Hard": instructions.MAKERS,
    "Safety": {"harmful": stances.harmful, "harmless": stances.harmless},
    "Reasoning": {
        "arithmetic": calculations.arithmetic,
        "sequence": calculations.sequence,
        "units": calculations.units,
        "word-problem": calculations.word_problem,
        "python": code.python,
        "javascript": code.javascript,
    },
}
WRAPPINGS = ("close", "far")
SUBSETS: dict[str, tuple[str, ...]] = {
    section: tuple(f"gen2-{name}-{wrapping}" for name in makers for wrapping in WRAPPINGS)
    for section, makers in MAKERS.items()
}
"""The subsets of each section: a task kind in one of the two wrappings."""

_PATIENCE = 5000
"""So many draws in a row without a new prompt mean that there are no more."""


@dataclass(frozen=True)
class GeneratedPair:
    """A pair with its subset, the task that it answers (which can give more) and its two answers.

    `template` names the task kind and the prompt's phrasing. `cluster` names what the pair shares
    with others of its kind: an act or a topic, "" for none.
    """

    pair: PreferencePair
    subset: str
    template: str
    task: Task
    contrast: Contrast
    cluster: str


def generate(split: Split, pairs: int | Mapping[str, int], seed: int) -> list[GeneratedPair]:
    """Make distinct pairs of a split; the arguments alone determine them, on any machine.

    `pairs` is their number (equal parts for the sections) or one number for each section. A
    section's task kinds have equal parts, half of them close. The order is random; every prompt
    occurs once. Raises InputError for a split, a section or a number that does not make sense, and
    where a task kind has too few prompts.
    """
    made = [
        (f"gen2-{name}-{wrapping}", task, answers)
        for section, count in _counts(split, pairs).items()
        for name, share in _shares(count, list(MAKERS[section])).items()
        for wrapping, task, answers in _contrasts(section, name, split, share, seed)
    ]
    random.Random(f"{seed}/{split}/order").shuffle(made)
    return [_pair(split, i, *one) for i, one in enumerate(made)]


def _counts(split: Split, pairs: int | Mapping[str, int]) -> dict[str, int]:
    if split not in SPLITS:
        raise InputError(f"split {split!r} is unknown: choose one of {', '.join(SPLITS)}")
    counts = _shares(pairs, list(MAKERS)) if isinstance(pairs, int) else dict(pairs)
    unknown = sorted(set(counts) - set(MAKERS))
    if unknown:
        raise InputError(f"no section {unknown[0]!r}: choose from {', '.join(MAKERS)}")
    if min(counts.values()) < 0 or sum(counts.values()) < 1:
        raise InputError(f"{pairs} generated pairs were asked: ask for 1 or more")
    return counts


def _shares(total: int, names: list[str]) -> dict[str, int]:
    """Divide a number among names as evenly as possible; the first ones get what is left over."""
    even, rest = divmod(total, len(names))
    return {name: even + (i < rest) for i, name in enumerate(names)}


def _contrasts(
    section: str, name: str, split: Split, count: int, seed: int
) -> list[tuple[str, Task, Contrast]]:
    """Draw tasks with different prompts, close and far by turns; InputError where they run out."""
    draw, maker = Draw(split, f"{seed}/{split}/{name}"), MAKERS[section][name]
    made: dict[str, tuple[str, Task, Contrast]] = {}
    idle = 0
    while len(made) < count:
        task, wrapping = maker(draw), WRAPPINGS[len(made) % 2]
        idle = idle + 1 if task.prompt in made else 0
        if task.prompt not in made:
            made[task.prompt] = (wrapping, task, contrast(task, draw, close=wrapping == "close"))
        if idle > _PATIENCE:
            raise InputError(
                f"only {len(made)} prompts of {name} exist in {split}, not {count}: ask for fewer"
            )
    return list(made.values())


def _pair(split: Split, index: int, subset: str, task: Task, answers: Contrast) -> GeneratedPair:
    section = next(section for section, subsets in SUBSETS.items() if subset in subsets)
    pair = PreferencePair(
        pair_id=f"{subset}-{split}-{index:06d}",
        prompt=({"role": "user", "content": task.prompt},),
        chosen=answers.chosen,
        rejected=answers.rejected,
        margin=answers.fault.margin,
        category=section,
        source=subset,
    )
    kind = subset.removeprefix("gen2-").rpartition("-")[0]
    cluster = f"{kind}/{task.cluster}" if task.cluster else ""
    return GeneratedPair(pair, subset, task.kind, task, answers, cluster)
