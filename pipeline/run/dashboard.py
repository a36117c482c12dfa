"""A wandb workspace and a report from conf/dashboard.yaml.

Panels are grouped by method, with the mean over seeds and their range.
"""

from __future__ import annotations

import importlib.util
import json
import re
from typing import Any

import wandb
from omegaconf import DictConfig

from pipeline.run.push import REPO
from rm.errors import InputError

STEP = "train/global_step"
KINDS = ("training", "evaluation")


def build(cfg: DictConfig) -> tuple[Any, Any]:
    """Return the workspace and the report (wandb_workspaces), not yet sent.

    Raises InputError for a malformed project and where wandb-workspaces is not installed.
    """
    if not re.fullmatch(REPO, str(cfg.project)):
        raise InputError(f"project={cfg.project}: give OWNER/NAME")
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise InputError(
            "the dashboard needs wandb-workspaces: pip install -r requirements-extras.txt"
        )
    return workspace(cfg), report(cfg)


def workspace(cfg: DictConfig) -> Any:
    """Return the project's workspace: one section per kind of run, without validation runs."""
    from wandb_workspaces import workspaces

    entity, project = cfg.project.split("/")
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=cfg.title,
        sections=[
            workspaces.Section(name=kind.capitalize(), panels=panels(cfg, kind), is_open=True)
            for kind in KINDS
        ],
        runset_settings=workspaces.RunsetSettings(
            filters=[workspaces.Metric("JobType") != "validation"],
            groupby=[workspaces.Config(cfg.groupby)],
        ),
    )


def report(cfg: DictConfig) -> Any:
    """Return a report with one grid of panels per kind of run."""
    from wandb_workspaces.reports import v2 as reports

    entity, project = cfg.project.split("/")
    blocks: list[Any] = [reports.TableOfContents()]
    for kind in KINDS:
        blocks += [
            reports.H1(kind.capitalize()),
            reports.P(
                "One colour per method: the mean over seeds, with a band from the smallest to the "
                "largest seed (not an interval: a handful of seeds gives none)."
            ),
            reports.PanelGrid(runsets=[runset(cfg, kind)], panels=panels(cfg, kind)),
        ]
    return reports.Report(entity=entity, project=project, title=cfg.title, blocks=blocks)


def runset(cfg: DictConfig, kind: str) -> Any:
    """Return the runs of one job type, grouped by method.

    The project is named only where something is sent: wandb looks its id up.
    """
    from wandb_workspaces import expr
    from wandb_workspaces.reports import v2 as reports

    entity, project = ("", "") if cfg.dry_run else cfg.project.split("/")
    return reports.Runset(
        entity=entity,
        project=project,
        name=kind,
        filters=[expr.Metric("JobType") == kind],
        groupby=[f"config.{cfg.groupby}"],
    )


def panels(cfg: DictConfig, kind: str) -> list[Any]:
    """Return the panels of conf/dashboard.yaml: lines over steps, or bars for an evaluation."""
    from wandb_workspaces.reports import v2 as reports

    grouped: dict[str, Any] = {
        "groupby": reports.Config(cfg.groupby),
        "groupby_aggfunc": "mean",
        "groupby_rangefunc": "minmax",
    }
    if kind == "evaluation":
        return [
            reports.BarPlot(title=one.title, metrics=list(one.metrics), orientation="v", **grouped)
            for one in cfg.evaluation
        ]
    if cfg.smoothing:
        grouped |= {"smoothing_type": "exponential", "smoothing_factor": cfg.smoothing}
    return [
        reports.LinePlot(title=one.title, x=STEP, y=list(one.metrics), title_x="step", **grouped)
        for one in cfg.training
    ]


def specification(built: tuple[Any, Any]) -> dict[str, Any]:
    """Return a workspace and a report as the JSON that is sent to wandb."""
    models = (one._to_model() for one in built)  # the package has no public way to get it
    named = zip(("workspace", "report"), models, strict=True)
    return {
        name: json.loads(model.model_dump_json(by_alias=True, exclude_none=True))
        for name, model in named
    }


def send(cfg: DictConfig) -> list[str]:
    """Make the workspace and the report in the user's project; return their addresses.

    Raises InputError where nobody is logged in, and what wandb answers where it refuses.
    """
    if wandb.api.api_key is None:
        raise InputError("not logged in to wandb: run `wandb login`, or leave dry_run=true")
    try:
        return [one.save().url for one in build(cfg)]
    except (wandb.errors.Error, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{cfg.project}: {reason} (log runs into the project first)") from error
