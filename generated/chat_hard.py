"""Instruction following: two near-equal answers of which one breaks exactly one constraint.

Every kind of fault comes in two directions ("include" against "leave out", "at most" against "at
least", first against last), so that neither a word nor the length gives the better answer away.
Margins: 1 = a near miss (a count off by one, one item out of place), 2 = one named thing missing or
forbidden thing present, 3 = the asked form is another one altogether.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from generated.constraints import CONSTRAINTS, SEPARATORS, UNITS, WRAPS, Stated
from generated.core import Draft, Draw, listed, numbers
from generated.fillers import ACROSTICS, LIST_WORDS, NAMES, WARES
from generated.knowledge import TOPICS, Entry


@dataclass(frozen=True)
class Contrast:
    """A request, the two answers, the broken constraint and others that both answers keep."""

    request: str
    chosen: str
    rejected: str
    broken: Stated
    margin: float
    kept: tuple[Stated, ...] = ()


def _words(text: str) -> list[str]:
    return re.findall(r"[A-Za-z']+", text)


def _key_words(text: str) -> list[str]:
    """List the longer words of a text in small letters, once each, in order."""
    return list(dict.fromkeys(w.lower() for w in _words(text) if len(w) >= 5))


def _kept(
    draw: Draw, topic: Entry, chosen: str, rejected: str, broken: Stated
) -> tuple[Stated, ...]:
    """State a constraint that both texts keep, of another kind than the broken; or none."""
    taken = {slot.lower() for slot in broken[1]} | set(_KEYS)
    options = [("include", w) for w in _key_words(chosen) if w in _key_words(rejected)]
    options = [draw.choose(options)] if options else []
    low, high = sorted((len(_words(chosen)), len(_words(rejected))))
    if broken[0] not in ("max_words", "min_words", "json_keys"):
        above = numbers(draw.split, high, high + 15)
        below = numbers(draw.split, max(5, low - 12), low)
        options += [("max_words", str(draw.choose(above)))] if above else []
        options += [("min_words", str(draw.choose(below)))] if below else []
    other = draw.choose([t for t in TOPICS[draw.split] if t is not topic])
    used = {w.lower() for w in _words(chosen + " " + rejected)}
    absent = [w for w in _key_words(" ".join(other.lines)) if w not in used | taken]
    options.append(("avoid", draw.choose(absent)))
    fitting = [o for o in options if o[0] != broken[0] and o[1] not in taken]
    return tuple((name, (slot,)) for name, slot in draw.some(fitting, min(1, len(fitting))))


_REQUESTS = (
    "Write a short note about {title}.",
    "Tell me something about {title}.",
    "Give me a few facts about {title}.",
    "Describe {title} for a school poster.",
    "I need a few lines about {title}.",
    "Sum up what one should know about {title}.",
)


def _about(draw: Draw, count: int) -> tuple[Entry, str, list[str]]:
    topic = draw.pick(TOPICS)
    request = draw.choose(_REQUESTS).format(title=topic.title)
    return topic, request, draw.some(topic.lines, count)


def _distance(words: int) -> float:
    return 1.0 if words <= 7 else 2.0 if words <= 9 else 3.0


def _word_limit(draw: Draw) -> Contrast:
    while True:
        topic, request, facts = _about(draw, draw.rng.randint(3, 5))
        long = " ".join(facts)
        facts.pop(draw.rng.randrange(len(facts)))
        short = " ".join(facts)
        low, high = len(_words(short)), len(_words(long))
        at_most = draw.coin()
        limits = (
            numbers(draw.split, low, high - 1) if at_most else numbers(draw.split, low + 1, high)
        )
        if limits:
            break
    limit = draw.choose(limits)
    over = high - limit if at_most else limit - low
    chosen, rejected = (short, long) if at_most else (long, short)
    broken = ("max_words" if at_most else "min_words", (str(limit),))
    kept = _kept(draw, topic, chosen, rejected, broken)
    return Contrast(request, chosen, rejected, broken, _distance(over), kept)


def _counted(draw: Draw, name: str, join: Callable[[list[str]], str]) -> Contrast:
    """Contrast an answer of n facts with one of n - 1 or n + 1."""
    topic, request, facts = _about(draw, draw.rng.randint(3, 5))
    more, fewer = join(facts), join(facts[:-1])
    count = len(facts) if draw.coin() else len(facts) - 1
    chosen, rejected = (more, fewer) if count == len(facts) else (fewer, more)
    broken = (name, (str(count),))
    kept = _kept(draw, topic, chosen, rejected, broken)
    return Contrast(request, chosen, rejected, broken, 1.0, kept)


def _sentences(draw: Draw) -> Contrast:
    return _counted(draw, "sentences", " ".join)


def _bullets(draw: Draw) -> Contrast:
    return _counted(draw, "bullets", lambda facts: "\n".join(f"- {f}" for f in facts))


def _json_count(draw: Draw) -> Contrast:
    return _counted(draw, "json_count", json.dumps)


def _with_and_without(draw: Draw) -> tuple[Entry, str, str, str, str, str]:
    """Give a topic, a request, two texts, a word of the first text only, a word of both."""
    while True:
        topic, request, facts = _about(draw, 4)
        place = draw.rng.randrange(3)
        base, swap = facts[:3], facts[3]
        other = [*base[:place], swap, *base[place + 1 :]]
        first, second = " ".join(base), " ".join(other)
        used = {w.lower() for w in _words(second)}
        only = [w for w in _key_words(first) if w not in used]
        shared = [w for w in _key_words(first) if w in used]
        if only and shared:
            return topic, request, first, second, draw.choose(only), draw.choose(shared)


def _one_word(draw: Draw) -> Contrast:
    topic, request, has, lacks, word, _ = _with_and_without(draw)
    name, chosen, rejected = ("include", has, lacks) if draw.coin() else ("avoid", lacks, has)
    broken = (name, (word,))
    kept = _kept(draw, topic, chosen, rejected, broken)
    return Contrast(request, chosen, rejected, broken, 2.0, kept)


def _two_words(draw: Draw) -> Contrast:
    topic, request, has, lacks, word, shared = _with_and_without(draw)
    if draw.coin():
        pair = (word, shared) if draw.coin() else (shared, word)
        return Contrast(request, has, lacks, ("include_both", pair), 2.0)
    used = {w.lower() for w in _words(has + " " + lacks)}
    spare = [w for w in _key_words(" ".join(topic.lines)) if w not in used]
    absent = draw.choose(spare or ["nothing"])
    pair = (word, absent) if draw.coin() else (absent, word)
    return Contrast(request, lacks, has, ("avoid_both", pair), 2.0)


def _reordered(draw: Draw) -> tuple[Entry, str, str, str]:
    topic, request, facts = _about(draw, 3)
    shift = draw.choose((1, 2))
    return topic, request, " ".join(facts), " ".join(facts[shift:] + facts[:shift])


def _edge_word(draw: Draw) -> Contrast:
    name, place = draw.choose((("first_word", 0), ("last_word", -1)))
    while True:
        topic, request, chosen, rejected = _reordered(draw)
        word = _words(chosen)[place]
        if word.lower() != _words(rejected)[place].lower():
            break
    broken = (name, (word,))
    kept = _kept(draw, topic, chosen, rejected, broken)
    return Contrast(request, chosen, rejected, broken, 2.0, kept)


def _before(draw: Draw) -> Contrast:
    while True:
        topic, request, facts = _about(draw, 3)
        swapped = [facts[1], facts[0], facts[2]]
        chosen, rejected = " ".join(facts), " ".join(swapped)
        every = [w.lower() for w in _words(chosen)]
        first, second = ([w for w in _key_words(fact) if every.count(w) == 1] for fact in facts[:2])
        if first and second:
            break
    slots = (draw.choose(first), draw.choose(second))
    broken = ("before", slots)
    kept = _kept(draw, topic, chosen, rejected, broken)
    return Contrast(request, chosen, rejected, broken, 1.0, kept)


def _name_drop(draw: Draw) -> Contrast:
    topic, request, facts = _about(draw, 3)
    one, two = draw.pick_some(NAMES, 2)
    closer = draw.choose(
        ("{n} told me so.", "Ask {n} for more.", "{n} likes this one.", "As {n} says.")
    )
    has, lacks = (" ".join([*facts, closer.format(n=n)]) for n in (one, two))
    name, chosen, rejected = ("include", has, lacks) if draw.coin() else ("avoid", lacks, has)
    broken = (name, (one,))
    kept = _kept(draw, topic, chosen, rejected, broken)
    return Contrast(request, chosen, rejected, broken, 2.0, kept)


_KEYS = ("topic", "facts", "title", "notes", "subject", "points", "theme", "lines")


def _json_keys(draw: Draw) -> Contrast:
    topic, request, facts = _about(draw, 2)
    first, second, wrong = draw.some(_KEYS, 3)
    keys = [first, second]
    chosen = json.dumps({first: topic.title, second: facts})
    keys[draw.rng.randrange(2)] = wrong
    rejected = json.dumps({keys[0]: topic.title, keys[1]: facts})
    broken = ("json_keys", (first, second))
    kept = _kept(draw, topic, " ".join(facts), " ".join(facts), broken)
    return Contrast(request, chosen, rejected, broken, 2.0, kept)


def _case(draw: Draw) -> Contrast:
    topic, request, facts = _about(draw, draw.rng.randint(2, 3))
    name, to, fro = draw.choose((("upper", str.upper, str.lower), ("lower", str.lower, str.upper)))
    words = " ".join(facts).split()
    chosen = to(" ".join(words))
    start = draw.rng.randrange(len(words))
    stop = draw.choose((start + 1, start + 3, len(words)))
    mixed = [fro(w) if start <= i < stop else to(w) for i, w in enumerate(words)]
    margin = 1.0 if stop - start == 1 else 3.0 if stop - start > 5 else 2.0
    broken = (name, ())
    kept = _kept(draw, topic, chosen, chosen, broken)
    return Contrast(request, chosen, " ".join(mixed), broken, margin, kept)


def _wrap(draw: Draw) -> Contrast:
    topic, request, facts = _about(draw, draw.rng.randint(2, 3))
    right, wrong = draw.some(tuple(WRAPS), 2)
    text = " ".join(facts)
    chosen, rejected = (WRAPS[w][0] + text + WRAPS[w][1] for w in (right, wrong))
    broken = ("wrap", (right,))
    kept = _kept(draw, topic, text, text, broken)
    return Contrast(request, chosen, rejected, broken, 3.0, kept)


def _numbering(draw: Draw) -> Contrast:
    topic, request, facts = _about(draw, draw.rng.randint(3, 4))
    right, wrong = draw.some((".", ")", ":"), 2)
    chosen, rejected = (
        "\n".join(f"{i}{mark} {fact}" for i, fact in enumerate(facts, 1)) for mark in (right, wrong)
    )
    broken = ("numbering", (f"1{right}", f"2{right}"))
    kept = _kept(draw, topic, chosen, rejected, broken)
    return Contrast(request, chosen, rejected, broken, 3.0, kept)


def _separator(draw: Draw) -> Contrast:
    words = draw.pick_some(LIST_WORDS, 5)
    request = draw.choose(
        ("Repeat these words: {w}.", "Write this list of words: {w}.", "Copy out the words: {w}.")
    ).format(w=" ".join(words))
    right, wrong = draw.some(tuple(SEPARATORS), 2)
    absent = draw.choose([w for w in LIST_WORDS[draw.split] if w not in words])
    kept = draw.choose((("include", (draw.choose(words),)), ("avoid", (absent,))))
    chosen, rejected = (SEPARATORS[s].join(words) for s in (right, wrong))
    return Contrast(request, chosen, rejected, ("separator", (right,)), 3.0, (kept,))


def _line_place(draw: Draw) -> Contrast:
    topic, request, facts = _about(draw, 3)
    line = f"{draw.choose(('From', 'By', 'For', 'Sent by'))}: {draw.pick(NAMES)}"
    text = " ".join(facts)
    top, bottom = f"{line}\n{text}", f"{text}\n{line}"
    first = draw.coin()
    chosen, rejected = (top, bottom) if first else (bottom, top)
    broken = ("top_line" if first else "bottom_line", (line,))
    kept = _kept(draw, topic, chosen, rejected, broken)
    return Contrast(request, chosen, rejected, broken, 2.0, kept)


_ENDINGS = (
    ("Would you like to hear more about it?", "I would like to hear more about it."),
    ("Did you know that already?", "You may know that already."),
    ("Is it not worth a closer look?", "It is worth a closer look."),
    ("What would you add to this?", "You may add to this."),
    ("Who would have thought so?", "Few would have thought so."),
)


def _question(draw: Draw) -> Contrast:
    topic, request, facts = _about(draw, draw.rng.randint(2, 3))
    question, statement = (" ".join([*facts, end]) for end in draw.choose(_ENDINGS))
    asks = draw.coin()
    chosen, rejected = (question, statement) if asks else (statement, question)
    broken = ("question" if asks else "no_question", ())
    kept = _kept(draw, topic, chosen, rejected, broken)
    return Contrast(request, chosen, rejected, broken, 2.0, kept)


_MEASURES = (
    ("cm", "The {thing} is {n} {unit} wide."),
    ("km", "The shop with the {thing} is {n} {unit} away."),
    ("kg", "The {thing} with its case weighs {n} {unit}."),
    ("min", "Testing the {thing} takes {n} {unit}."),
)


def _unit(draw: Draw) -> Contrast:
    short, form = draw.choose(_MEASURES)
    thing, n = draw.pick(WARES), draw.number(10, 400)
    right, wrong = draw.some((short, UNITS[short]), 2)
    ask = draw.choose(("Put into one sentence", "Say in one sentence", "Write a sentence"))
    fact = {"cm": "width", "km": "way to the shop", "kg": "weight", "min": "time for a test"}[short]
    request = f"{ask}: {thing}, {fact} {n} ({short}, that is {UNITS[short]})."
    lead = draw.choose(("", "As noted: ", "Note: ", "In short: "))
    chosen, rejected = (lead + form.format(thing=thing, n=n, unit=u) for u in (right, wrong))
    kept = ("include", (thing,))
    return Contrast(request, chosen, rejected, ("unit", (right,)), 2.0, (kept,))


_LAYOUTS = {"one_a_line": "\n", "with_commas": ", "}


def _laid_out(draw: Draw, right: list[str], wrong: list[str]) -> tuple[str, str, Stated]:
    name = draw.choose(tuple(_LAYOUTS))
    return _LAYOUTS[name].join(right), _LAYOUTS[name].join(wrong), (name, ())


def _swapped(draw: Draw, items: list[str]) -> tuple[list[str], float]:
    """Swap two items; the margin is 1 for neighbours, 2 for two apart, 3 for farther."""
    i, j = sorted(draw.rng.sample(range(len(items)), 2))
    out = list(items)
    out[i], out[j] = out[j], out[i]
    return out, float(min(3, j - i))


_LISTS = (
    "Here are some words: {w}.",
    "Take these words: {w}.",
    "My list has these words: {w}.",
    "You get the words: {w}.",
)


def _ordered(draw: Draw, name: str, words: list[str], right: list[str]) -> Contrast:
    wrong, margin = _swapped(draw, right)
    chosen, rejected, kept = _laid_out(draw, right, wrong)
    request = draw.choose(_LISTS).format(w=", ".join(words))
    return Contrast(request, chosen, rejected, (name, ()), margin, (kept,))


def _alphabet(draw: Draw) -> Contrast:
    words = draw.pick_some(LIST_WORDS, draw.rng.randint(4, 6))
    name = draw.choose(("a_to_z", "z_to_a"))
    return _ordered(draw, name, words, sorted(words, reverse=name == "z_to_a"))


def _by_length(draw: Draw) -> Contrast:
    pool = list(LIST_WORDS[draw.split])
    draw.rng.shuffle(pool)
    by_length = {len(word): word for word in pool}
    words = draw.some(sorted(by_length.values()), min(4, len(by_length)))
    name = draw.choose(("short_to_long", "long_to_short"))
    return _ordered(draw, name, words, sorted(words, key=len, reverse=name == "long_to_short"))


def _backwards(draw: Draw) -> Contrast:
    words = draw.pick_some(LIST_WORDS, draw.rng.randint(4, 6))
    return _ordered(draw, "backwards", words, words[::-1])


def _prices(draw: Draw) -> Contrast:
    wares = draw.pick_some(WARES, 4)
    prices = draw.some(numbers(draw.split, 10, 200), 4)
    name = draw.choose(("cheap_to_dear", "dear_to_cheap"))
    priced = dict(zip(wares, prices, strict=True))
    right = sorted(wares, key=priced.__getitem__, reverse=name == "dear_to_cheap")
    wrong, margin = _swapped(draw, right)
    chosen, rejected, kept = _laid_out(draw, right, wrong)
    offer = ", ".join(f"{ware} {price}" for ware, price in priced.items())
    request = draw.choose(
        (
            "A shop has these prices in dollars: {o}.",
            "Prices in dollars: {o}.",
            "I saw prices: {o}.",
        )
    ).format(o=offer)
    return Contrast(request, chosen, rejected, (name, ()), margin, (kept,))


def _selected(draw: Draw, name: str, slot: str, words: list[str], keep: list[str]) -> Contrast:
    """Contrast the right selection with one where a word is missing, added or replaced."""
    others = [w for w in words if w not in keep]
    fault = draw.choose(("missing", "added", "replaced"))
    wrong = [w for w in words if w in keep]
    if fault != "added":
        wrong.remove(draw.choose(wrong))
    if fault != "missing":
        wrong.append(draw.choose(others))
    right = list(keep)
    draw.rng.shuffle(right)
    wrong.sort(key=lambda w: right.index(w) if w in right else draw.rng.randrange(len(right)))
    chosen, rejected, kept = _laid_out(draw, right, wrong)
    request = draw.choose(_LISTS).format(w=", ".join(words))
    margin = 2.0 if fault == "replaced" else 1.0
    return Contrast(request, chosen, rejected, (name, (slot,)), margin, (kept,))


def _choose_words(draw: Draw, options: list[tuple[str, str, Callable[[str], bool]]]) -> Contrast:
    while True:
        words = draw.pick_some(LIST_WORDS, draw.rng.randint(5, 7))
        name, slot, test = draw.choose(options)
        keep = [w for w in words if test(w)]
        if 2 <= len(keep) < len(words):
            return _selected(draw, name, slot, words, keep)


def _letter(draw: Draw) -> Contrast:
    letter = draw.choose("aeionrlt")
    return _choose_words(
        draw,
        [("contains", letter, lambda w: letter in w), ("lacks", letter, lambda w: letter not in w)],
    )


def _dictionary(draw: Draw) -> Contrast:
    pivot = draw.choose(("goat", "house", "lion", "mouse", "night", "paint"))
    return _choose_words(
        draw, [("later", pivot, lambda w: w > pivot), ("earlier", pivot, lambda w: w < pivot)]
    )


def _letter_count(draw: Draw) -> Contrast:
    n = draw.digit(5, 7)
    return _choose_words(
        draw,
        [("longer", str(n), lambda w: len(w) > n), ("shorter", str(n), lambda w: len(w) < n)],
    )


_ADJECTIVES = listed(
    "able airy ample bold brave bright calm clear cozy daring deep dry eager early easy fair "
    "fast firm gentle glad good happy honest huge icy ideal inner jolly keen kind late light "
    "lively mild modern merry neat new noble odd old open pale proud plain quick quiet ready "
    "rich round safe soft steady tall tiny true usual useful upper vast vivid warm wide wise "
    "young yellow zesty"
)


def _acrostic(draw: Draw) -> Contrast:
    target = draw.pick(ACROSTICS)
    right = [draw.choose([a for a in _ADJECTIVES if a[0] == c.lower()]) for c in target]
    wrong = list(right)
    place = draw.rng.randrange(len(wrong))
    wrong[place] = draw.choose([a for a in _ADJECTIVES if a[0] != target[place].lower()])
    request = draw.choose(
        ("Write one adjective a line.", "List an adjective on each line.", "Give me adjectives.")
    )
    absent = draw.choose([a for a in _ADJECTIVES if a not in right and a not in wrong])
    chosen, rejected = "\n".join(right), "\n".join(wrong)
    kept = draw.choose((("avoid", (absent,)), ("lower", ())))
    return Contrast(request, chosen, rejected, ("spell", (target,)), 1.0, (kept,))


Kind = Callable[[Draw], Contrast]


def _state(draw: Draw, stated: Stated) -> tuple[int, str]:
    name, slots = stated
    index, phrasing = draw.phrase(CONSTRAINTS[name])
    return index, phrasing.format(**dict(zip("ab", slots, strict=False)))


def _maker(subset: str, kinds: tuple[Kind, ...]) -> Callable[[Draw], Draft]:
    def make(draw: Draw) -> Draft:
        contrast = draw.choose(kinds)(draw)
        index, broken = _state(draw, contrast.broken)
        said = [broken, *(_state(draw, kept)[1] for kept in contrast.kept)]
        draw.rng.shuffle(said)
        prompt = " ".join([contrast.request, *said])
        template = f"{subset}/{contrast.broken[0]}/{index}"
        return Draft(template, prompt, contrast.chosen, contrast.rejected, contrast.margin)

    make.__doc__ = (
        f"Make a pair of {subset}: one of its constraints is broken in the rejected answer."
    )
    return make


length = _maker("gen-length", (_word_limit, _sentences, _bullets, _json_count))
keywords = _maker("gen-keywords", (_one_word, _two_words, _edge_word, _before, _name_drop))
formatting = _maker(
    "gen-format",
    (_json_keys, _case, _wrap, _numbering, _separator, _line_place, _question, _unit),
)
ordering = _maker("gen-ordering", (_alphabet, _by_length, _backwards, _prices))
letters = _maker("gen-letters", (_letter, _dictionary, _letter_count, _acrostic))
