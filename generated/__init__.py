"""Preference pairs made by templates, and the code that verifies their labels."""

from generated.pairs import SUBSETS, GeneratedPair, generate
from generated.verify import verify

__all__ = ["SUBSETS", "GeneratedPair", "generate", "verify"]
