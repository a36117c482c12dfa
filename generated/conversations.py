"""Open-ended requests: an answer to the request, or one that strays from it.

A wrong answer consists, wholly or in part, of what answers another request of the same kind; or it
is signed by another person, or says one thing twice. So only the request tells which
answer is right. Labels hold by construction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from generated import knowledge
from generated.core import Draw, Split, listed, partition
from generated.fillers import DAYS, NAMES
from generated.knowledge import Entry
from generated.parameters import Values
from generated.task import Fault, Task, Wrapping, variant

Lines = tuple[str, ...]

PEOPLE = partition(
    listed(
        "a new colleague|my grandmother|a ten-year-old|a group of students|a tourist|my sister|"
        "a busy parent|a shy teenager|my book club|a retired engineer|a friend from abroad|"
        "my neighbors|a night nurse|an apprentice|my uncle|a curious child|a young couple|"
        "our sports team|a farmer|my roommate|a librarian|a taxi driver|my choir|a painter|"
        "a scout group",
        "|",
    )
)
_OPENINGS = (
    "",
    "",
    "Sure, here you go.",
    "Happy to help with that.",
    "Here is what I would say.",
    "This is what comes to mind.",
)
_CLOSINGS = (
    "",
    "",
    "I hope that this helps.",
    "Tell me if you want more.",
    "That should do for a start.",
    "Good luck with it.",
)


def _frame(lines: Sequence[str], gap: str, wrapping: Wrapping) -> str:
    opening, closing = variant(_OPENINGS, wrapping.opening), variant(_CLOSINGS, wrapping.closing)
    body = gap.join(lines)
    return ("\n" if "\n" in body else " ").join(filter(None, [opening, body, closing]))


def _listed(lines: Lines, style: str) -> list[str]:
    return [
        f"{i}. {line}" if style == "numbered" else f"- {line}" for i, line in enumerate(lines, 1)
    ]


def sentences(lines: Lines, wrapping: Wrapping) -> str:
    """Write sentences as a paragraph or a list."""
    style = variant(("plain", "numbered", "dashed"), wrapping.style)
    if style == "plain":
        return _frame(lines, " ", wrapping)
    return _frame(_listed(lines, style), "\n", wrapping)


def items(lines: Lines, wrapping: Wrapping) -> str:
    """Write items as a sentence or a list."""
    style = variant(("plain", "numbered", "dashed"), wrapping.style)
    if style == "plain":
        start = variant(("You could think of", "I would go for", "My picks are"), wrapping.wording)
        return _frame([f"{start} {', '.join(lines[:-1])} and {lines[-1]}."], " ", wrapping)
    return _frame(_listed(lines, style), "\n", wrapping)


def message(lines: Lines, wrapping: Wrapping) -> str:
    """Write the lines of a message, the last of which is its sender."""
    *text, sender = lines
    greeting = variant(("Best wishes,", "Yours,", "Kind regards,"), wrapping.wording)
    gap = variant((" ", "\n", "\n\n"), wrapping.style)
    return _frame([*text, f"{greeting} {sender}"], gap, wrapping)


class Reply(NamedTuple):
    """Lines with slots for the details (names and a day) of a request, and what fills them."""

    lines: Lines
    details: Values


def _off_topic(draw: Draw, right: Reply, foreign: Lines) -> Reply:
    return right._replace(lines=foreign)


def _drift(draw: Draw, right: Reply, foreign: Lines) -> Reply:
    kept = len(right.lines) - len(right.lines) // 2
    return right._replace(lines=right.lines[:kept] + foreign[kept:])


def _repeat(draw: Draw, right: Reply, foreign: Lines) -> Reply:
    lost, twice = draw.some(range(len(right.lines)), 2)
    lines = [right.lines[twice if i == lost else i] for i in range(len(right.lines))]
    return right._replace(lines=tuple(lines))


def _sender(draw: Draw, right: Reply, foreign: Lines) -> Reply:
    other = draw.choose([n for n in NAMES[draw.split] if n not in right.details.values()])
    return right._replace(details=right.details | {"sender": other})


Faults = Mapping[str, tuple[Callable[[Draw, Reply, Lines], Reply], float]]
"""By name, how a right reply is changed (with lines for another request), and the margin."""

_STRAY: Faults = {"off topic": (_off_topic, 3.0), "drift": (_drift, 2.0)}


@dataclass(frozen=True)
class Request:
    """A kind of request: what people ask about, in which words, and what answers consist of."""

    name: str
    entries: Mapping[Split, Sequence[Entry]]
    asks: Sequence[str]
    lines: Callable[[Draw, Entry], Lines]
    write: Callable[[Lines, Wrapping], str]
    faults: Faults = field(default_factory=lambda: {**_STRAY, "repeat": (_repeat, 1.0)})


def _in_order(count: int, first: bool = False) -> Callable[[Draw, Entry], Lines]:
    """Draw `count` lines of an entry in their order, the first always if asked for."""

    def lines(draw: Draw, entry: Entry) -> Lines:
        rest = range(1 if first else 0, len(entry.lines))
        chosen = sorted(draw.some(rest, count - first))
        return tuple(entry.lines[i] for i in ([0] if first else []) + chosen)

    return lines


def _message_lines(draw: Draw, entry: Entry) -> Lines:
    return (*_in_order(3, first=True)(draw, entry), "{sender}")


def _several(count: int) -> Callable[[Draw, Entry], Lines]:
    return lambda draw, entry: tuple(draw.some(entry.lines, count))


EXPLAIN = Request(
    "explain",
    knowledge.TOPICS,
    (
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
    ),
    _several(3),
    sentences,
)
HOWTO = Request(
    "howto",
    knowledge.HOWTO,
    (
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
    ),
    _in_order(3),
    sentences,
)
SUGGEST = Request(
    "ideas",
    knowledge.IDEAS,
    (
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
    ),
    _several(4),
    items,
)
WRITE = Request(
    "writing",
    knowledge.MESSAGES,
    (
        "Write a short message to {title}. I am {sender}.",
        "Help me to {title}. A few lines will do. I am {sender}.",
        "I want to {title}. What could I write? I am {sender}.",
        "Draft a note to {title}, please. I am {sender}.",
        "Please word a brief text to {title}. It is from {sender}.",
        "How can I {title} by mail? Write it for me and sign as {sender}.",
        "I have to {title}. Give me a friendly text from {sender}.",
        "Compose a few sentences to {title}. They are from {sender}.",
        "Could you put this in writing for {sender}: {title}?",
        "My task today: {title}. I need a short text. I am {sender}.",
    ),
    _message_lines,
    message,
    {**_STRAY, "sender": (_sender, 1.0)},
)


def _details(draw: Draw) -> Values:
    name, sender = draw.pick_some(NAMES, 2)
    return {"name": name, "sender": sender, "day": draw.choose(DAYS)}


def _task(draw: Draw, request: Request) -> Task:
    entry = draw.pick(request.entries)
    (index, ask), details = draw.phrase(request.asks), _details(draw)

    def fault(draw: Draw, right: Reply) -> Fault:
        other = draw.choose([e for e in request.entries[draw.split] if e is not entry])
        kind = draw.choose(tuple(request.faults))
        change, margin = request.faults[kind]
        return Fault(change(draw, right, request.lines(draw, other)), kind, margin)

    def write(reply: Reply, wrapping: Wrapping) -> str:
        lines = tuple(line.format(**reply.details) for line in reply.lines)
        return request.write(lines, wrapping)

    title = entry.title.format(**details)
    return Task(
        f"{request.name}/{index}",
        ask.format(**details | {"title": title, "who": draw.pick(PEOPLE)}),
        lambda draw: Reply(request.lines(draw, entry), details),
        fault,
        write,
        cluster=entry.title,
    )


def explain(draw: Draw) -> Task:
    """Draw a request to explain a topic."""
    return _task(draw, EXPLAIN)


def howto(draw: Draw) -> Task:
    """Draw a request for the steps of an everyday task."""
    return _task(draw, HOWTO)


def ideas(draw: Draw) -> Task:
    """Draw a request for suggestions."""
    return _task(draw, SUGGEST)


def writing(draw: Draw) -> Task:
    """Draw a request for a message."""
    return _task(draw, WRITE)
