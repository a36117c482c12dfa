"""The constraints that instructions state: their wording and the values of their slots.

The makers write them into prompts, and the checkers read them back from there.
"""

from __future__ import annotations

CONSTRAINTS: dict[str, tuple[str, ...]] = {
    "max_words": ("Use at most {a} words.", "Stay within {a} words.", "Do not go over {a} words."),
    "min_words": (
        "Use at least {a} words.",
        "Write {a} words or more.",
        "Do not go below {a} words.",
    ),
    "sentences": ("Write exactly {a} sentences.", "The answer must have {a} sentences in all."),
    "bullets": (
        'Write exactly {a} lines, each starting with "- ".',
        'Answer as a list of {a} bullets marked "- ".',
    ),
    "include": ('Include the word "{a}".', 'The word "{a}" must appear.', 'Use the word "{a}".'),
    "avoid": (
        'Leave out the word "{a}".',
        'The word "{a}" must not appear.',
        'Avoid the word "{a}".',
    ),
    "include_both": ('Use both "{a}" and "{b}".', 'The words "{a}" and "{b}" must both appear.'),
    "avoid_both": ('Use neither "{a}" nor "{b}".', 'Neither "{a}" nor "{b}" may appear.'),
    "first_word": ('Begin with the word "{a}".', 'The first word must be "{a}".'),
    "last_word": ('End with the word "{a}".', 'The last word must be "{a}".'),
    "before": ('Use "{a}" before "{b}".', 'The word "{a}" must come earlier than "{b}".'),
    "json_keys": ('Reply with a JSON object whose keys are "{a}" and "{b}".',),
    "json_count": ("Reply with a JSON list of exactly {a} strings.",),
    "upper": ("Write in capital letters only.", "Use capitals throughout."),
    "lower": ("Write in small letters only.", "Use no capitals at all."),
    "wrap": ("Put the whole answer in {a}.", "Enclose everything in {a}."),
    "numbering": ('Number the lines "{a}", "{b}" and so on.',),
    "separator": ("Separate the items with {a}.", "Put {a} between the items."),
    "top_line": ('Make "{a}" the first line.', 'The top line must be "{a}".'),
    "bottom_line": ('Make "{a}" the last line.', 'The bottom line must be "{a}".'),
    "question": ("End with a question.", "Let the last sentence be a question."),
    "no_question": ("Do not ask anything.", "Do not use a question."),
    "unit": ('Write the unit as "{a}".', 'Give the unit as "{a}".'),
    "a_to_z": ("Sort them from A to Z.", "Put them in alphabetical order."),
    "z_to_a": ("Sort them from Z to A.", "Put them in reverse alphabetical order."),
    "short_to_long": ("Sort them from the shortest to the longest.",),
    "long_to_short": ("Sort them from the longest to the shortest.",),
    "cheap_to_dear": ("Name them from the cheapest to the dearest.",),
    "dear_to_cheap": ("Name them from the dearest to the cheapest.",),
    "backwards": ("Give them in the opposite order.", "Turn their order around."),
    "contains": ('Give all that contain the letter "{a}".', 'Which have the letter "{a}" in them?'),
    "lacks": ('Give all without the letter "{a}".', 'Which do not have the letter "{a}" in them?'),
    "later": ('Give all that come after "{a}" in the dictionary.',),
    "earlier": ('Give all that come before "{a}" in the dictionary.',),
    "longer": ("Give all with more than {a} letters.", "Which are longer than {a} letters?"),
    "shorter": ("Give all with less than {a} letters.", "Which are shorter than {a} letters?"),
    "spell": ('Let the first letters of the lines spell "{a}".',),
    "one_a_line": ("Put each on its own line.", "One a line, please."),
    "with_commas": ("Use one line with commas.", "Put commas between them, on one line."),
}
"""The wording of every constraint; a prompt states each of its constraints in one of these."""

WRAPS = {"square brackets": "[]", "round brackets": "()", "double quotes": '""', "stars": "**"}
SEPARATORS = {"semicolons": "; ", "commas": ", ", "slashes": " / ", "dashes": " - "}
UNITS = {"cm": "centimetres", "km": "kilometres", "kg": "kilograms", "min": "minutes"}

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
