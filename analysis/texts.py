"""What a pair's two responses have in common as text (figure 8, pairs.parquet)."""

import difflib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

WORDS: Final = re.compile(r"\w+|[^\w\s]")
"""A word is a run of letters and digits, or one other character that is not white space."""
FEATURES: Final = {
    "length_difference": "length difference (words)",
    "overlap": "lexical overlap (Dice)",
    "edit_similarity": "edit similarity",
}


def words(text: str) -> list[str]:
    """Return the lower-case words and punctuation marks of `text`."""
    return WORDS.findall(text.lower())


def text_features(chosen: str, rejected: str) -> dict[str, float]:
    """Return how alike two responses are, from their words.

    Keys: words_chosen, words_rejected; length_difference, the absolute difference of the two;
    overlap, Dice's coefficient of the two bags of words, 2 |A ∩ B| / (|A| + |B|), in [0, 1];
    edit_similarity, difflib's ratio of the two sequences, 2 · matching / total, in [0, 1]: like the
    overlap, but order counts. Two empty texts are alike (1).
    """
    left, right = words(chosen), words(rejected)
    shared = sum((Counter(left) & Counter(right)).values())
    total = len(left) + len(right)
    return {
        "words_chosen": len(left),
        "words_rejected": len(right),
        "length_difference": abs(len(left) - len(right)),
        "overlap": 2 * shared / total if total else 1.0,
        "edit_similarity": difflib.SequenceMatcher(None, left, right, autojunk=False).ratio(),
    }


def prompt_text(messages: Sequence[Mapping[str, str]]) -> str:
    """Return a prompt as one text; roles are named only where there is more than one message."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)
