"""Keep secrets out of configurations, which are written to files and trackers."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from omegaconf import OmegaConf
from omegaconf.resolvers import oc

from rm.errors import InputError

_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
SHORTEST = 8
"""Fewest characters of a secret that is looked for; shorter values are ordinary words."""


def is_secret(name: str) -> bool:
    """Return whether an environment variable is a secret, by its name."""
    return _SECRET.search(name) is not None


def protect() -> None:
    """Make `${oc.env:…}` refuse secret variables in any configuration; it reads all others."""
    OmegaConf.register_new_resolver("oc.env", _variable, replace=True)


def _variable(name: str, *default: str | None) -> str | None:
    if is_secret(name):
        raise InputError(
            f"${{oc.env:{name}}} is a secret by its name, and configurations are written to files: "
            "leave it in the environment, where its library reads it"
        )
    return oc.env(name, *default)


def secret_in(texts: Sequence[str], shortest: int) -> str | None:
    """Name of a secret variable whose value (`shortest` characters or more) a text contains."""
    for name, value in os.environ.items():
        if is_secret(name) and len(value) >= shortest and any(value in text for text in texts):
            return name
    return None


def check_words(words: Sequence[str]) -> None:
    """Raise InputError if the command line contains a secret variable's value; don't show it."""
    name = secret_in(words, SHORTEST)
    if name is not None:
        raise InputError(
            f"the command line holds the value of the environment variable {name}, and "
            "configurations are written to files: leave it out"
        )
