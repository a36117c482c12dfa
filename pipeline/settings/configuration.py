"""Composing conf/, running a command, and errors that name the valid choices."""

from __future__ import annotations

import contextlib
import difflib
import functools
import gc
import importlib.util
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import hydra
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from pipeline.settings import private
from pipeline.settings.help import CONF, command_help
from pipeline.settings.words import literal
from rm.errors import InputError, InterruptedRunError, visible
from rm.files import storage_error

PLUGIN, SEARCH = "hydra/sweeper=optuna", "hydra/sweeper=search"
Settings = TypeVar("Settings")
private.protect()


def _fast_dtype() -> str:
    from rm.model.precision import fast_dtype  # torch is not needed to compose anything else

    return fast_dtype()


def _folder_name(path: str) -> str:
    return Path(path).expanduser().resolve().name


IN_NAME = ("model", "data", "loss", "seed")
"""Keys that the name of conf/train.yaml's run_dir contains already."""


def _swept() -> str:
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return ""
    swept = HydraConfig.get().job.override_dirname
    return "-" + re.sub(r"[^\w.+=,-]", "_", swept) if swept else ""


# ${fast_dtype:} in conf/: the dtype that this machine multiplies fastest; saved by its name.
OmegaConf.register_new_resolver("fast_dtype", _fast_dtype, replace=True)
# ${folder_name:PATH}: what a model of the user's own is called.
OmegaConf.register_new_resolver("folder_name", _folder_name, replace=True)
# ${swept:}: in a job of a sweep, what is swept that a run's name lacks, with a hyphen in front.
OmegaConf.register_new_resolver("swept", _swept, replace=True)


def compose_config(name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Compose conf/<name>.yaml with command-line style overrides. Raises InputError if it can't."""
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose(name, literal(overrides))
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # a group that is no text
        raise InputError(explain(error, name, overrides)) from error


def typed(kind: type[Settings], section: DictConfig) -> Settings:
    """Turn a section of the configuration into its dataclass, checked.

    Raises InputError for an unknown or missing key and for a value of the wrong type.
    """
    missing = [str(key) for key in section if OmegaConf.is_missing(section, key)]
    if missing:
        raise InputError(f"{section._get_full_key(missing[0])}: give it on the command line")
    try:
        # Resolved first: merged, ${seed} would mean a key of the section itself.
        plain = OmegaConf.create(OmegaConf.to_container(section, resolve=True))
        merged = OmegaConf.merge(OmegaConf.structured(kind), plain)
        return OmegaConf.to_object(merged)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        keys = ", ".join(kind.__dataclass_fields__)  # type: ignore[attr-defined]
        key = getattr(error, "full_key", None)
        where = f"{key}: " if key else ""
        raise InputError(f"{where}{_first_line(error)} (valid keys: {keys})") from error


TEXTS = (
    *("run_dir", "cache_dir", "runs_dir", "results_dir", "output", "archive", "folder"),
    *("checkpoint", "data", "benchmark_data", "benchmark", "repo", "project", "title", "action"),
)
SWITCHES = ("debug", "dry_run", "private", "rerun", "keep_checkpoints", "best_of_n", "texts")
NUMBERS = {
    **{"devices": (1, 2**20), "threads": (1, 2**20), "gradient_pairs": (1, 2**20)},
    "seed": (0, 2**32),
}
"""Whole numbers: at least the first, below the second."""
NULLABLE = ("output", "benchmark_data", "best_of_n", "threads")


def check_types(cfg: DictConfig) -> None:
    """Raise InputError for a key of the top level whose value is of the wrong type.

    The sections are typed where they are used (`typed`).
    """
    for key in (key for key in cfg if not OmegaConf.is_missing(cfg, key)):
        value = cfg[key]
        if isinstance(value, DictConfig) or (value is None and key in NULLABLE):
            continue
        if key in TEXTS and value == "":
            raise InputError(f"{key} is empty: give a text")
        if key in TEXTS and not isinstance(value, str):
            raise InputError(f"{key}={value}: give a text (a number as one: {key}=\"'5'\")")
        if key in SWITCHES and not isinstance(value, bool):
            null = " or null" if key in NULLABLE else ""
            raise InputError(f"{key}={value}: give true or false{null}")
        if key in NUMBERS:
            least, most = NUMBERS[key]
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole or not least <= value < most:
                raise InputError(
                    f"{key}={value}: must be a whole number, {least} or more, below {most}"
                )


def load_saved(path: Path) -> DictConfig:
    """Return the configuration that a run saved, resolved, as plain values.

    The file is untrusted: nothing in it can read our environment. Raises InputError if it is no
    mapping in YAML or still holds an interpolation (`${…}`), which no run writes.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, yaml.YAMLError, RecursionError) as error:
        raise InputError(
            f"{path} is damaged: delete {path.parent}, and run the same command again"
        ) from error
    if not isinstance(content, dict) or "${" in json.dumps(content, default=str):
        raise InputError(
            f"{path} is not the configuration that a run saved: delete {path.parent}, and run the "
            "same command again"
        )
    return OmegaConf.create(content)


def key_of(word: str) -> str:
    """Return the key that a word of the command line sets, such as loss.weight.beta."""
    return word.lstrip("+~").split("=")[0]


def without_keys(
    overrides: Sequence[str], keys: Sequence[str], exact: Sequence[str] = ()
) -> list[str]:
    """Return the command line's words except those that set one of `keys` or something in it.

    For keys in `exact`, words that set something in a key stay: without loss=bt, but with
    loss.weight.beta=0.5.
    """
    return [
        word
        for word in overrides
        if key_of(word).split(".")[0] not in keys and key_of(word) not in exact
    ]


def hydra_words(words: Sequence[str]) -> list[str]:
    """Rename data=… to benchmark_data=… on a command line.

    conf/data is a group (of scripts.train), so Hydra would take data=PATH for a choice in it.
    """
    return [re.sub(r"^data=", "benchmark_data=", word) for word in words]


def main(name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Decorate an entry point: Hydra's command line, our exit codes (0, 1, 2).

    2: wrong input or configuration. 1: a run that was stopped (no space, a killed rank, numbers
    that are not finite). Both print one line on standard error. Any other exception gives 1 and a
    traceback. The function itself imports what it calls, so that --help and errors of the command
    line come before torch is loaded.
    """

    def decorate(function: Callable[[DictConfig], Any]) -> Callable[[], None]:
        def run() -> None:
            if {"-h", "--help"} & set(sys.argv[1:]):
                print(command_help(name, str(function.__globals__["__doc__"])))
                return
            os.environ["HYDRA_FULL_ERROR"] = "1"  # let exceptions through to us
            app = hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)
            failed: list[Exception] = []

            @functools.wraps(function)
            def job(cfg: DictConfig) -> Any:
                try:
                    check_types(cfg)
                    return function(cfg)
                except Exception as error:
                    # Hydra would print a line of its own; in a multirun that says which job it was.
                    if HydraConfig.get().mode == RunMode.MULTIRUN:
                        raise
                    failed.append(error)

            try:
                private.check_words(sys.argv[1:])
                sys.argv[1:] = literal(sys.argv[1:])
                _check_sweeper(name)
                _note_sweep(name)
                app(job)()
                if failed:
                    raise failed[0]
            except Exception as error:
                _end(error, name)
            except KeyboardInterrupt:
                end_progress()
                sys.exit("interrupted: the same command resumes from the last checkpoint")

        return run

    return decorate


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """Import large libraries without garbage collection, which takes a quarter of that time.

    The imported objects are kept: later collections do not look at them again.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def words() -> list[str]:
    """The words of the command line that set something; in a sweep, those of this job."""
    return list(HydraConfig.get().overrides.task)


def _note_sweep(name: str) -> None:
    """Make Hydra's `override_dirname` of each job of scripts.train -m hold only what is swept."""
    if name != "train" or not {"-m", "--multirun"} & set(sys.argv):
        return
    try:
        given = OverridesParser.create().parse_overrides(
            [word for word in sys.argv[1:] if not word.startswith("-")]
        )
    except HydraException:
        return  # Hydra says what is wrong
    left_out = [
        one.key_or_group
        for one in given
        if not one.is_sweep_override() or one.key_or_group in IN_NAME
    ]
    listed = ",".join(f"'{key}'" for key in left_out)
    sys.argv.append(f"hydra.job.config.override_dirname.exclude_keys=[{listed}]")


def _check_sweeper(name: str) -> None:
    """Raise InputError if Optuna is asked for and is not installed or has nothing to maximise."""
    asked = {PLUGIN, SEARCH} & set(sys.argv)
    if not asked:
        return
    if name != "tune" or PLUGIN in asked:
        raise InputError(
            f"a search maximises what scripts.tune returns: python -m scripts.tune -m {SEARCH} …"
        )
    if importlib.util.find_spec("optuna") is None:
        raise InputError(f"{SEARCH} needs Optuna: pip install -r requirements-extras.txt")


def _end(error: Exception, name: str) -> NoReturn:
    """Exit with one line and the status that `main` documents; raise any other exception."""
    known = storage_error(error) or error
    end_progress()
    if "debug=true" in map(str.lower, sys.argv):
        traceback.print_exc()
    if isinstance(known, InterruptedRunError | FloatingPointError):
        print(f"error: {visible(str(known))}", file=sys.stderr)
        sys.exit(1)
    if not isinstance(known, InputError | HydraException | OmegaConfBaseException):
        raise error
    message = str(known) if isinstance(known, InputError) else explain(known, name, sys.argv[1:])
    print(f"error: {visible(message)}", file=sys.stderr)
    sys.exit(2)


def end_progress() -> None:
    """End the line of every progress bar that an error cut off: the message needs its own line."""
    for bar in list(tqdm._instances):  # type: ignore[attr-defined]
        bar.close()


def explain(error: Exception, name: str, overrides: Sequence[str] = ()) -> str:
    """Say in one line what is wrong with conf/<name>.yaml under `overrides` and what is valid."""
    text = str(error)
    _, own, message = _first_line(error).partition(
        "InputError raised while resolving interpolation: "
    )
    if own:
        return message
    missing = re.search(r"[Mm]issing mandatory value: ([\w.]+)", text)
    if missing:
        return f"Missing mandatory value: {missing[1]}: give it on the command line"
    unknown = re.search(r"Could not override '([\w./-]+)'", text)
    if unknown:
        return _unknown_key(unknown[1], name, overrides)
    options = re.search(
        r"Could not find '([\w./-]+)'.*?Available options in '\S+':(.*)", text, re.S
    )
    if options:
        choices = [word.strip() for word in options[2].splitlines()[1:]]
        valid = [word for word in choices if re.fullmatch(r"[\w.-]+", word) and word[0] != "_"]
        return f"there is no {options[1]}; valid: {', '.join(valid)}"
    first = _first_line(error)
    if "input '=' expecting" in first:
        return f"{first}: write a value that contains = in two pairs of quotes, 'key=\"a=b\"'"
    return first


def _unknown_key(key: str, name: str, overrides: Sequence[str]) -> str:
    groups = [word for word in overrides if (CONF / key_of(word)).is_dir() and "=" in word]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        section: Any = compose(name, groups)
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
    """The error's first line; of a failed call the reason, which Hydra puts on the next."""
    if isinstance(error.__cause__, InputError):
        return str(error.__cause__)
    first, *more = str(error).strip().splitlines()
    called = first.startswith("Error in call to target") and more
    return f"{first} {more[0]}" if called else first
