"""What is disturbed: commands of the smoke profile, and what of their output may not change."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.faults.commands import Command

TRAIN = ("profile=smoke", "loss=normbt", "training.save_steps=3", "data.train_pairs=96")
TRUNK = ("training.part=top_layers", "training.top_layers=1", "training.reuse_trunk=true")
PIPELINE = (
    "profile=smoke",
    "seeds=[0]",
    "methods=[bt,normbt]",
    "gradient_pairs=2",
    "training.save_steps=3",
    "data.train_pairs=48",
    *(
        "bon.policy.engine=transformers",
        "gold=both",
        "bon.prompts.subsets=[gen2-counts-close,gen2-python-far]",
    ),
    "bon.proxy.seeds=[0]",
)
NOT_COMPARED = (
    *("README.md", "manifest.json", "report.html", "table3.csv", "table3.md", "table3.tex"),
    *("best_of_n.json", "log.txt"),
)
"""Files that say how long something took or where it was: they differ from call to call."""

Outcome = dict[str, bytes]
"""Content of every file that must not depend on faults, by its path below the folder."""


@dataclass(frozen=True)
class Target:
    """A command (or some in a row) that works in one folder.

    `commands` and `outcome` take that folder. `needs`: folders of the harness's workplace that are
    copied into it first.
    """

    name: str
    commands: Callable[[Path], list[Command]]
    outcome: Callable[[Path], Outcome]
    needs: tuple[str, ...] = ()

    def prepare(self, workplace: Path, folder: Path) -> Path:
        """Copy what the command needs into a new `folder` and return it."""
        folder.mkdir(parents=True)
        for name in self.needs:
            shutil.copytree(workplace / name, folder / name)
        return folder


def files(folder: Path, patterns: Iterable[str], but: Iterable[str] = NOT_COMPARED) -> Outcome:
    """Read the files of `folder` that match any of `patterns` and are not called any of `but`."""
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(found)
        if path.name not in but
    }


def _train(folder: Path) -> list[Command]:
    return [("train", *TRAIN, f"run_dir={folder}/run", f"cache_dir={folder}/cache")]


def _train_over_trunk(folder: Path) -> list[Command]:
    return [(*_train(folder)[0], *TRUNK)]


def _trained(folder: Path) -> Outcome:
    return files(folder, ("run/checkpoint/*", "run/metrics.jsonl", "run/split.json"))


def _trained_over_trunk(folder: Path) -> Outcome:
    return _trained(folder) | files(folder, ("cache/trunk/*.bin", "cache/trunk/*.json"))


def _evaluate(folder: Path) -> list[Command]:
    return [
        (
            "evaluate",
            f"checkpoint={folder}/run/checkpoint",
            "benchmark=pairs",
            f"data={folder}/data/test.jsonl",
            f"output={folder}/scores",
            f"cache_dir={folder}/cache",
            "eval.batch_tokens=512",
            "eval.resamples=100",
        )
    ]


def _scored(folder: Path) -> Outcome:
    return files(folder, ("scores/*",), ("config.yaml", *NOT_COMPARED))


def _draw(folder: Path) -> list[Command]:
    place = ("profile=smoke", f"results_dir={folder}/results")
    return [("figures", *place), ("report", *place)]


def _drawn(folder: Path) -> Outcome:
    return files(folder, ("results/figures/*", "results/tables/*", "results/report.html"), ())


def _reproduce(folder: Path) -> list[Command]:
    own = (f"runs_dir={folder}/runs", f"results_dir={folder}/results", f"cache_dir={folder}/cache")
    return [("reproduce", *PIPELINE, *own)]


def _reproduced(folder: Path) -> Outcome:
    return files(folder, ("results/**/*", "runs/train/*/checkpoint/*"))


TRAINING = Target("a training run", _train, _trained, ("cache",))
TRUNK_CACHE = Target("a run that fills its trunk cache", _train_over_trunk, _trained_over_trunk)
EVALUATION = Target("an evaluation", _evaluate, _scored, ("run", "data", "cache"))
FIGURES = Target("figures and report", _draw, _drawn, ("results",))
PIPELINE_RUN = Target("the whole pipeline", _reproduce, _reproduced, ("cache",))
RUN_AND_SCORES = Target(
    "a training run and its evaluation",
    lambda folder: [*_train_over_trunk(folder), *_evaluate(folder)],
    lambda folder: _trained(folder) | _scored(folder),
    ("data",),
)
