"""Composing conf/, running an entry point, and errors that name the valid choices."""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import hydra
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from rm.errors import InputError, visible
from scripts import private

CONF = Path(__file__).resolve().parent.parent / "conf"
Settings = TypeVar("Settings")
private.protect()


def compose_config(name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Compose conf/<name>.yaml with command-line style overrides. Raises InputError if it can't."""
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose(name, list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(explain(error, name)) from error


def typed(kind: type[Settings], section: DictConfig) -> Settings:
    """Turn a section of the configuration into its dataclass, checked.

    Raises InputError for an unknown or missing key and for a value of the wrong type.
    """
    try:
        merged = OmegaConf.merge(OmegaConf.structured(kind), section)
        return OmegaConf.to_object(merged)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        keys = ", ".join(kind.__dataclass_fields__)  # type: ignore[attr-defined]
        raise InputError(f"{_first_line(error)} (valid keys: {keys})") from error


def load_saved(path: Path) -> DictConfig:
    """Return the configuration that a run saved, resolved, as plain values.

    The file may be anybody's: nothing in it reads our environment. Raises InputError if it is no
    mapping in YAML or still holds an interpolation (`${…}`), which no run writes.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({_first_line(error)}): delete it") from error
    if not isinstance(content, dict) or "${" in json.dumps(content, default=str):
        raise InputError(f"{path} is not the configuration that a run saved: delete it")
    return OmegaConf.create(content)


def without_keys(overrides: Sequence[str], keys: Sequence[str]) -> list[str]:
    """Return the command line's words but those that set one of `keys` or something in it."""
    return [word for word in overrides if word.lstrip("+~").split("=")[0].split(".")[0] not in keys]


def main(name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Decorate an entry point: Hydra's command line, our exit codes (0, 1, 2).

    2: wrong input or configuration, one line on standard error; 1: anything else, with traceback.
    """

    def decorate(function: Callable[[DictConfig], Any]) -> Callable[[], None]:
        def run() -> None:
            os.environ["HYDRA_FULL_ERROR"] = "1"  # let exceptions through to us
            app = hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)
            try:
                private.check_words(sys.argv[1:])
                app(function)()
            except (InputError, HydraException, OmegaConfBaseException) as error:
                _refuse(error, name)
            except KeyboardInterrupt:
                sys.exit("interrupted: the same command goes on from the last checkpoint")

        return run

    return decorate


def _refuse(error: Exception, name: str) -> NoReturn:
    if "debug=true" in sys.argv:
        traceback.print_exc()
    message = str(error) if isinstance(error, InputError) else explain(error, name)
    print(f"error: {visible(message)}", file=sys.stderr)
    sys.exit(2)


def explain(error: Exception, name: str) -> str:
    """Say in one line what is wrong with a configuration and what would be valid."""
    text = str(error)
    _, own, message = _first_line(error).partition(
        "InputError raised while resolving interpolation: "
    )
    if own:
        return message
    if isinstance(error, MissingMandatoryValue):
        return f"{_first_line(error)}: give it on the command line"
    unknown = re.search(r"Could not override '([\w./-]+)'", text)
    if unknown:
        return _unknown_key(unknown[1], name)
    options = re.search(
        r"Could not find '([\w./-]+)'.*?Available options in '\S+':(.*)", text, re.S
    )
    if options:
        choices = [word.strip() for word in options[2].splitlines()[1:]]
        valid = [word for word in choices if re.fullmatch(r"[\w.-]+", word) and word[0] != "_"]
        return f"there is no {options[1]}; valid: {', '.join(valid)}"
    return _first_line(error)


def _unknown_key(key: str, name: str) -> str:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        section: Any = compose(name)
    parent, _, last = key.rpartition(".")
    if parent:
        section = OmegaConf.select(section, parent, throw_on_missing=False)
    valid = sorted(map(str, section)) if isinstance(section, DictConfig) else []
    if not valid:
        return f"unknown key {key}: there is no {parent}"
    near = difflib.get_close_matches(last, valid, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"unknown key {key}{hint}; valid: {', '.join(valid)}"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
