"""Open-ended requests: a relevant, helpful answer against a broken, empty or off-topic one.

Margins: 1 = the good answer cut off in mid-sentence, 2 = an empty general answer, or one that says
the same thing over and over, 3 = a good answer to another question. Labels hold by construction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from generated.core import Draft, Draw, listed, partition
from generated.fillers import DAYS, NAMES
from generated.knowledge import HOWTO, IDEAS, MESSAGES, TOPICS

_OPENERS = (
    "",
    "",
    "Sure. ",
    "Of course. ",
    "Happy to help. ",
    "Gladly. ",
    "Certainly. ",
    "Here you go. ",
)
_GENERIC_STARTS = (
    "There are many sides to {t}.",
    "{t}: that is an interesting subject.",
    "A lot can be said about {t}.",
    "People have different views on {t}.",
    "It depends on many things when it comes to {t}.",
    "You asked about {t}, which is a common thing to ask.",
)
_GENERIC_ENDS = (
    "In the end it is up to you.",
    "You can find more in books and on the web.",
    "Everyone has to find a way of their own.",
    "It is important to think about it carefully.",
    "Some things work and others do not.",
    "With time it usually becomes clearer.",
    "There is no single answer to that.",
)
CONTEXTS = partition(
    listed(
        "a new colleague|my grandmother|a ten-year-old|a group of students|a tourist|my sister|"
        "a busy parent|a shy teenager|my book club|a retired engineer|a friend from abroad|"
        "my neighbors|a night nurse|an apprentice|my uncle|a curious child|a young couple|"
        "our sports team|a farmer|my roommate|a librarian|a taxi driver|my choir|a painter|"
        "a scout group",
        "|",
    )
)


def _generic(draw: Draw, title: str) -> str:
    start = draw.choose(_GENERIC_STARTS).format(t=title)
    return " ".join([start[0].upper() + start[1:], *draw.some(_GENERIC_ENDS, 2)])


def _truncated(draw: Draw, text: str) -> str:
    """Cut the text after a third to four fifths of it, inside a sentence or an item of a list."""
    low, high = len(text) // 3, len(text) * 4 // 5
    places = [i for i in range(low, high) if re.fullmatch(r"[a-z][a-z ]", text[i - 1 : i + 1])]
    return text[: draw.choose(places)]


def _repeating(draw: Draw, lines: Sequence[str], join: Callable[[Sequence[str]], str]) -> str:
    return join([draw.choose(lines)] * len(lines))


def _answers(
    draw: Draw,
    title: str,
    lines: Sequence[str],
    other: Sequence[str],
    join: Callable[[Sequence[str]], str],
) -> tuple[str, str, float]:
    """Give a good answer, a bad one of a drawn sort, and the margin between them."""
    opener = draw.choose(_OPENERS)
    good = join(lines)
    sort = draw.choose(("truncated", "generic", "repeating", "off topic", "off topic"))
    if sort == "truncated":
        bad, margin = _truncated(draw, good), 1.0
    elif sort == "generic":
        bad, margin = _generic(draw, title), 2.0
    elif sort == "repeating":
        bad, margin = _repeating(draw, lines, join), 2.0
    else:
        bad, margin = join(other), 3.0
    if join in (_numbered, _dashed):
        opener = opener.replace(". ", ".\n")
    return opener + good, opener + bad, margin


def _numbered(lines: Sequence[str]) -> str:
    return "\n".join(f"{i}. {line}" for i, line in enumerate(lines, 1))


def _dashed(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _commas(lines: Sequence[str]) -> str:
    return "You could think of " + ", ".join(lines[:-1]) + f" or {lines[-1]}."


_EXPLAIN = (
    "Can you explain {title} to {who}?",
    "What should {who} know about {title}?",
    "Tell {who} a bit about {title}.",
    "I am preparing a talk on {title} for {who}. What can I say?",
    "Please give {who} and {name} an introduction to {title}.",
    "What is worth knowing about {title}? It is for {who}.",
    "{name} asked me about {title}. What shall I answer?",
    "Give {name} three facts on {title}.",
    "How would you introduce {title} to {name}?",
    "{name} and {who} want to learn about {title}. Where do I begin?",
)


def explain(draw: Draw) -> Draft:
    """Make a pair about a topic that is to be explained."""
    topic, other = draw.pick_some(TOPICS, 2)
    index, phrasing = draw.phrase(_EXPLAIN)
    lines, off = ([t.lines[0], *draw.some(t.lines[1:], 2)] for t in (topic, other))
    join = draw.choose((" ".join, " ".join, _dashed))
    chosen, rejected, margin = _answers(draw, topic.title, lines, off, join)
    prompt = phrasing.format(title=topic.title, who=draw.pick(CONTEXTS), name=draw.pick(NAMES))
    return Draft(f"gen-explain/{index}", prompt, chosen, rejected, margin)


_HOWTO = (
    "How do I {title}?",
    "What is the best way to {title}?",
    "I have never done this: how does one {title}?",
    "Please tell me how to {title}.",
    "{name} wants to {title}. What should I tell {name}?",
    "Can you give {who} and {name} some steps to {title}?",
    "I am helping {who} to {title}. How do we go about it?",
    "My friend {name} asks how to {title}. Any advice?",
    "Short guide, please: how to {title}, for {who}.",
    "Together with {name} I want to {title}. What do we do first, and then?",
)


def howto(draw: Draw) -> Draft:
    """Make a pair about an everyday task that is to be done."""
    entry, other = draw.pick_some(HOWTO, 2)
    index, phrasing = draw.phrase(_HOWTO)
    join = draw.choose((" ".join, _numbered, _dashed))
    chosen, rejected, margin = _answers(
        draw, f"how to {entry.title}", entry.lines, other.lines, join
    )
    prompt = phrasing.format(title=entry.title, who=draw.pick(CONTEXTS), name=draw.pick(NAMES))
    return Draft(f"gen-howto/{index}", prompt, chosen, rejected, margin)


_IDEAS = (
    "I am looking for {title}. Any ideas?",
    "Please suggest {title}.",
    "Can you name a few {title}?",
    "{name} needs {title}. What comes to mind?",
    "Help {who} to find {title}.",
    "Give me some {title} to show to {who} and {name}.",
    "I promised {name} a list of {title}. What could be on it?",
    "List {title} that {who} might like.",
    "What are some {title} that {name} could pick from?",
    "With {name} and {who} in mind: {title}?",
)


def ideas(draw: Draw) -> Draft:
    """Make a pair about a list of suggestions."""
    entry, other = draw.pick_some(IDEAS, 2)
    index, phrasing = draw.phrase(_IDEAS)
    join = draw.choose((_commas, _numbered, _dashed))
    lines, off = draw.some(entry.lines, 4), draw.some(other.lines, 4)
    chosen, rejected, margin = _answers(draw, entry.title, lines, off, join)
    prompt = phrasing.format(title=entry.title, who=draw.pick(CONTEXTS), name=draw.pick(NAMES))
    return Draft(f"gen-ideas/{index}", prompt, chosen, rejected, margin)


_WRITING = (
    "Write a short message to {title}.",
    "Help me to {title}. A few lines will do.",
    "I want to {title}. What could I write?",
    "Draft a note to {title}, please.",
    "Please word a brief text to {title}.",
    "How can I {title} by mail? Write it for me.",
    "I have to {title}. Give me a friendly text.",
    "Compose a few sentences to {title}.",
    "Could you put this in writing for me: {title}?",
    "My task today: {title}. I need a short text.",
)


def writing(draw: Draw) -> Draft:
    """Make a pair about a message that is to be written."""
    entry, other = draw.pick_some(MESSAGES, 2)
    index, phrasing = draw.phrase(_WRITING)
    name, signed = draw.pick_some(NAMES, 2)
    slots = {"name": name, "day": draw.choose(DAYS)}
    title = entry.title.format(**slots)
    sign = draw.choose(("Best wishes, {s}", "Yours, {s}", "{s}", "Kind regards, {s}")).format(
        s=signed
    )
    lines, off = ([line.format(**slots) for line in e.lines] + [sign] for e in (entry, other))
    join = draw.choose((" ".join, "\n".join))
    topic = f"the wish to {title}"
    chosen, rejected, margin = _answers(draw, topic, lines, off, join)
    prompt = phrasing.format(title=title) + f" I am {signed}."
    return Draft(f"gen-writing/{index}", prompt, chosen, rejected, margin)
