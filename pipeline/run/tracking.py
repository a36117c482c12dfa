"""Experiment trackers around a run: opened before it, always finished after it.

metrics.jsonl and an evaluation's files are the source of truth; a tracker shows their content. With
wandb, training is one run and each evaluation another in the same group: reopening an ended run
would leave two files for it when wandb is offline.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback

from analysis.texts import prompt_text
from eval.rows import EvaluationRow, sample_rows
from pipeline.launch.terminal import say
from pipeline.settings import private
from pipeline.settings.configuration import load_saved
from rm.data.preferences import section_key
from rm.errors import InputError
from rm.files import atomic_write_text
from rm.provenance import code_revision, environment
from rm.training.trainer import PairTrainer

PACKAGES = {"wandb": "requirements.txt", "tensorboard": "requirements-extras.txt"}
ID_FILE = "wandb_id"
NAMED = ("experiment", "profile", "model", "data", "loss")
"""Sections of a configuration whose names make a run's group and tags."""
SECRET_KEY = re.compile(r"^\s*(\w*(token|secret|password|api_key)): (?!null|'')", re.MULTILINE)
SHORTEST_SECRET = 16
RUN_FILES = ("config.yaml", "metrics.jsonl", "split.json", "manifest.json")
RESULT_FILES = ("scores.parquet", "summary.json", "table.md", "manifest.json")


def check(cfg: DictConfig) -> None:
    """Raise InputError for a tracker that is not installed, and for a secret in a configuration."""
    for name in cfg.tracking.report_to:
        if name in PACKAGES and importlib.util.find_spec(name) is None:
            raise InputError(
                f"tracking={name} needs the package {name}: pip install -r {PACKAGES[name]}"
            )
    steps = cfg.tracking.histogram_steps
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise InputError(f"tracking.histogram_steps={steps}: must be a whole number, 0 or more")
    refuse_secrets(OmegaConf.to_yaml(cfg, resolve=True))


def refuse_secrets(text: str) -> None:
    """Raise InputError if a configuration, as YAML, holds a secret: it is saved, logged and shared.

    A secret is the value of an environment variable that is named as one
    (`pipeline.settings.private`), or of a key that is. The message names it and does not show it.
    """
    name = private.secret_in([text], SHORTEST_SECRET)
    if name is not None:
        raise InputError(
            f"the configuration holds the value of ${name}: take it out, the variable is enough"
        )
    found = SECRET_KEY.search(text)
    if found:
        raise InputError(
            f"the configuration holds a secret under {found[1]}: use an environment variable"
        )


def labels(config: Mapping[str, Any]) -> tuple[str | None, list[str]]:
    """Return a run's group, which its seeds share, and its tags, from its configuration.

    Both consist of the names of experiment, profile, model, data and method, as far as it has them;
    the code's revision is one more tag.
    """
    names = [str(config[key]["name"]) for key in NAMED if (config.get(key) or {}).get("name")]
    revision = code_revision()["commit"]
    return "-".join(names) or None, list(dict.fromkeys([*names, *filter(None, [revision])]))


@contextlib.contextmanager
def run(cfg: DictConfig, run_dir: Path) -> Iterator[list[str]]:
    """Open the tracker that conf/tracking names; yield what transformers should report to.

    wandb goes online where the user is logged in and offline otherwise (WANDB_MODE overrides);
    only rank 0 opens it. An interrupted run resumes under the id that is kept in `run_dir`.
    metrics.jsonl does not depend on any of this. TensorBoard is a callback (see `callbacks`).
    """
    names = [name for name in cfg.tracking.report_to if name != "tensorboard"]
    if "wandb" not in names or os.environ.get("RANK", "0") != "0":
        yield [name for name in names if name != "wandb"]
        return
    config = OmegaConf.to_container(cfg, resolve=True)
    kept = run_dir / ID_FILE
    if not kept.is_file():
        atomic_write_text(kept, secrets.token_hex(4))
    with open_wandb(cfg.tracking, run_dir, config, "training", run_dir.name, kept.read_text()):
        yield names


@contextlib.contextmanager
def open_wandb(
    settings: DictConfig,
    folder: Path,
    config: Any,
    job_type: str,
    name: str,
    run_id: str | None = None,
) -> Iterator[Any]:
    """Open a wandb run in `folder`/wandb and yield it; it is finished whatever happens.

    settings: conf/tracking. config: the run's configuration; versions, machine and code revision
    are added (`rm.provenance.environment`: no variables, no paths). With `run_id` an earlier run
    of this id is resumed.
    """
    import wandb

    refuse_secrets(OmegaConf.to_yaml(OmegaConf.create(config)))
    group, tags = labels(config)
    mode = wandb_mode()
    opened = wandb.init(
        project=settings.project,
        entity=settings.entity,
        name=name,
        id=run_id,
        resume="allow" if run_id and mode == "online" else None,
        group=settings.group or group or folder.name,
        tags=[*tags, *settings.tags],
        job_type=job_type,
        dir=str(folder),
        mode=mode,
        config={**config, "environment": environment()},
    )
    if opened.url:  # none where wandb is offline
        say(f"wandb: {opened.url}")
    failed = True
    try:
        yield opened
        failed = False
    finally:
        wandb.finish(exit_code=int(failed))


def wandb_mode() -> Any:
    """WANDB_MODE, or online where the user is logged in and offline where not."""
    import wandb

    logged_in = wandb.api.api_key is not None
    return os.environ.get("WANDB_MODE", "online" if logged_in else "offline")


def callbacks(cfg: DictConfig, trainer: PairTrainer) -> list[TrainerCallback]:
    """What a tracker needs beside transformers' own reporting, on rank 0."""
    if not trainer.is_world_process_zero():
        return []
    found: list[TrainerCallback] = []
    if "wandb" in cfg.tracking.report_to:
        found.append(WandbDetails(trainer, cfg))
    if "tensorboard" in cfg.tracking.report_to:
        from torch.utils.tensorboard import SummaryWriter

        folder = Path(cfg.run_dir) / "tensorboard"
        found.append(TensorBoardCallback(SummaryWriter(str(folder))))
    return found


class WandbDetails(TrainerCallback):
    """Adds to the wandb run what transformers does not: weights and distances as histograms."""

    def __init__(self, trainer: PairTrainer, cfg: DictConfig) -> None:
        self.trainer, self.every = trainer, cfg.tracking.histogram_steps
        self.config = OmegaConf.to_container(cfg, resolve=True)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Put back the keys that transformers' arguments of the same name have taken."""
        import wandb

        wandb.config.update(self.config, allow_val_change=True)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Every `tracking.histogram_steps` steps and at the last: the global batch's histograms."""
        import wandb

        step, pairs = state.global_step, self.trainer.step_pairs
        due = self.every > 0 and (step % self.every == 0 or step == state.max_steps)
        if not due or pairs is None:
            return
        _, distance, weight, _ = pairs.T
        wandb.log(
            {
                "train/weights": wandb.Histogram(weight.numpy()),
                "train/distances": wandb.Histogram(distance.numpy()),
                "train/global_step": step,
            }
        )


def log_artifacts(cfg: DictConfig, run_dir: Path) -> None:
    """Attach a finished run's files to the open wandb run; its checkpoint only if asked for."""
    if "wandb" not in cfg.tracking.report_to:
        return
    import wandb

    if wandb.run is None:
        return
    log_files("run", wandb.run, [run_dir / name for name in RUN_FILES])
    if cfg.tracking.checkpoint_artifact:
        log_files("checkpoint", wandb.run, sorted((run_dir / "checkpoint").iterdir()))


def log_files(kind: str, opened: Any, paths: Sequence[Path]) -> None:
    """Attach files to a wandb run as one artifact. They are read in place, not copied."""
    import wandb

    artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", f"{opened.name}-{kind}"), type=kind)
    for path in paths:
        artifact.add_file(str(path), name=path.name, policy="immutable")
    opened.log_artifact(artifact)


def log_evaluation(
    cfg: DictConfig, rows: Sequence[EvaluationRow], scores: pd.DataFrame, summary: Mapping[str, Any]
) -> None:
    """Log an evaluation as a wandb run of its own, in the group of the run that trained.

    cfg: conf/evaluate. rows: the benchmark's pairs ([] where it is not of pairs, and then there
    are neither histograms nor a table of pairs). Does nothing where wandb is not asked for.
    """
    if "wandb" not in cfg.tracking.report_to:
        return
    output, trained = Path(cfg.output), Path(cfg.checkpoint).parent
    config = training_config(trained) | {"benchmark": cfg.benchmark}
    name = f"{trained.name}-{cfg.benchmark}"
    with open_wandb(cfg.tracking, output, config, cfg.tracking.job_type, name) as opened:
        numbers = evaluation_metrics(summary)
        opened.log({**numbers, **evaluation_media(cfg.tracking.sample_pairs, rows, scores)})
        opened.summary.update(numbers)
        log_files("results", opened, [output / name for name in RESULT_FILES])


def training_config(run_dir: Path) -> dict[str, Any]:
    """Return the configuration that a run was trained with; {} if it is unknown."""
    path = run_dir / "config.yaml"
    if not path.is_file():
        return {}
    return OmegaConf.to_container(load_saved(path))  # type: ignore[return-value]


def evaluation_metrics(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return an evaluation's numbers by the names they are logged under, accuracies as fractions.

    eval/average, eval/<section> and eval/subset/<subset> (those that have a value), eval/ties,
    eval/pairs.
    """
    found = {"average": summary["average"], "ties": summary["ties"], "pairs": summary["pairs"]}
    found |= {section_key(name): value for name, value in summary["sections"].items()}
    found |= {f"subset/{name}": entry["accuracy"] for name, entry in summary["subsets"].items()}
    return {f"eval/{name}": value for name, value in found.items() if value is not None}


def evaluation_media(
    sample: int, rows: Sequence[EvaluationRow], scores: pd.DataFrame
) -> dict[str, Any]:
    """Return histograms of distance and reward difference, by section and overall, and a table.

    The table has at most `sample` pairs, equally many per section, with texts and scores.
    """
    import wandb

    if not rows:
        return {}
    frame = scores.assign(margin=scores["reward_chosen"] - scores["reward_rejected"])
    parts = {"all": frame} | {
        section_key(str(name)): part for name, part in frame.groupby("section")
    }
    media: dict[str, Any] = {}
    for name, part in parts.items():
        media[f"eval/distances/{name}"] = wandb.Histogram(part["distance"].tolist())
        media[f"eval/margins/{name}"] = wandb.Histogram(part["margin"].tolist())
    if sample > 0:
        table = pair_table(sample_rows(rows, max(1, sample // (len(parts) - 1)))[:sample], frame)
        media["eval/sample_pairs"] = wandb.Table(dataframe=table)
    return media


def pair_table(rows: Sequence[EvaluationRow], scores: pd.DataFrame) -> pd.DataFrame:
    """Return the texts of `rows` beside their scores (correct: chosen scores strictly higher)."""
    texts = [(row.pair_id, *map(prompt_text, (row.prompt, *row.sides))) for row in rows]
    table = pd.DataFrame(texts, columns=["pair_id", "prompt", "chosen", "rejected"])
    shown = ["pair_id", "section", "subset", "reward_chosen", "reward_rejected", "distance"]
    merged = table.merge(scores[[*shown, "margin"]], on="pair_id", validate="one_to_one")
    return merged.assign(correct=merged["margin"] > 0)
