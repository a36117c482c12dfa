"""The constraints that instructions state: their wording and the values of their slots.

The makers write them into prompts, and the checkers read them back from there.
"""

from __future__ import annotations

Stated = tuple[str, tuple[str, ...]]
"""A constraint's name and its slots."""

INSTRUCTIONS: dict[str, tuple[str, ...]] = {
    "mark": ('Put "{a}" in front of every fact.', 'Begin every line with "{a}".'),
    "joint": ('Separate the facts with "{a}".', 'Put "{a}" between the facts.'),
    "wrap": (
        'Put the whole answer between "{a}" and "{b}".',
        'Begin with "{a}" and end with "{b}".',
    ),
    "case": ("Write in {a}.", "Use {a}."),
    "layout": ("Mark the points with {a}.", "List the points with {a}."),
    "points": ("Give exactly {a} numbered points.", "Number {a} points."),
    "sentences": ("Write exactly {a} sentences.", "The answer must have {a} sentences in all."),
    "heading": ('Make "{a}" the first line, not "{b}".', 'Put "{a}" on top instead of "{b}".'),
    "names": ("Address it to {a} and sign it as {b}.", "It goes to {a} and comes from {b}."),
    "code word": (
        'Finish with the code word "{a}" and not with "{b}".',
        'The code word below it is "{a}", no longer "{b}".',
    ),
    "first word": ('Begin with the word "{a}".', 'The first word must be "{a}".'),
}
