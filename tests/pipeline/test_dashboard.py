"""The dashboard: its panels show what real runs log, and it says what it needs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from pipeline.experiments.matrix import benchmark_data
from pipeline.run import dashboard, tracking
from pipeline.run.evaluation import evaluate
from pipeline.settings.configuration import compose_config
from rm.errors import InputError
from scripts import dashboard as command_line


def composed(*words: str) -> DictConfig:
    return compose_config("dashboard", ["project=me/normbt", *words])


@pytest.fixture(scope="module")
def specification() -> dict[str, Any]:
    return dashboard.specification(dashboard.build(composed()))


def found(content: Any, *keys: str) -> list[Any]:
    """All values under one of the `keys`, at any depth."""
    if isinstance(content, list):
        return [value for one in content for value in found(one, *keys)]
    if not isinstance(content, dict):
        return []
    own = [value for key, value in content.items() if key in keys]
    return own + [value for one in content.values() for value in found(one, *keys)]


@pytest.fixture(scope="module")
def names(
    train_smoke: Callable[..., Path], cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, set[str]]:
    """Names that a smoke run with NormBT and its evaluation on the generated pairs log."""
    folder = train_smoke("data.train_pairs=32", "loss=normbt")
    steps = (folder / "metrics.jsonl").read_text().splitlines()
    data = tmp_path_factory.mktemp("data")
    test = benchmark_data(compose_config("reproduce", ["profile=smoke"]), data)
    words = [f"checkpoint='{folder}/checkpoint'", "benchmark=generated", f"output='{data}/scores'"]
    words += [f"benchmark_data='{test}'", f"cache_dir='{cache}'"]
    summary = evaluate(compose_config("evaluate", words))
    return {
        "training": {f"train/{key}" for step in steps for key in json.loads(step)},
        "evaluation": set(tracking.evaluation_metrics(summary)),
    }


def test_every_panel_shows_what_runs_log(
    specification: dict[str, Any], names: dict[str, set[str]]
) -> None:
    shown = {metric for metrics in found(specification, "metrics") for metric in metrics}
    plain = {metric.removeprefix("summary:") for metric in shown}
    assert plain <= names["training"] | names["evaluation"]
    for kind in dashboard.KINDS:
        wanted = {metric for one in composed()[kind] for metric in one.metrics}
        assert wanted <= names[kind] and wanted <= plain


@pytest.mark.parametrize(
    "metric",
    [
        "loss",
        "accuracy",
        "mu",
        "weight_q50",
        "weight_mean_reasoning",
        "gradient_norm",
        "weight_share_q1",
    ],
)
def test_workspace_and_report_have_a_panel_of_it(
    specification: dict[str, Any], metric: str
) -> None:
    for part in ("workspace", "report"):
        panels = [one for one in found(specification[part], "metrics") if f"train/{metric}" in one]
        assert len(panels) == 1


def test_panels_are_grouped_by_method_over_seeds(specification: dict[str, Any]) -> None:
    panels = [one for one in found(specification, "config") if "chartTitle" in one]
    assert len(panels) == 2 * 15
    for panel in panels:
        assert panel["groupBy"] == "loss.value.name"
        assert (panel["groupAgg"], panel["groupArea"]) == ("mean", "minmax")
    lines = [panel for panel in panels if "xAxis" in panel]
    assert {panel["xAxis"] for panel in lines} == {dashboard.STEP} and len(lines) == 2 * 10


def test_runs_of_validation_are_left_out(specification: dict[str, Any]) -> None:
    chosen = {
        (leaf["key"]["name"], leaf["op"], leaf["value"])
        for filters in found(specification, "filters")
        if isinstance(filters, list)
        for leaf in filters
        if "op" in leaf
    }
    assert chosen == {
        ("jobType", "!=", "validation"),
        ("jobType", "=", "training"),
        ("jobType", "=", "evaluation"),
    }


def test_a_dry_run_writes_what_would_be_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "dashboard.json"
    words = ["scripts.dashboard", "project=me/normbt", f"output={path}"]
    monkeypatch.setattr("sys.argv", words)
    command_line.main()
    assert json.loads(path.read_text())["report"]["project"]["entityName"] == "me"
    assert "15 panels each" in capsys.readouterr().out


@pytest.mark.parametrize("project", ["me", "me/a/b", "https://wandb.ai/me"])
def test_a_malformed_project_is_refused(project: str) -> None:
    with pytest.raises(InputError, match="give OWNER/NAME"):
        dashboard.build(OmegaConf.merge(composed(), {"project": project}))  # type: ignore[arg-type]


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    monkeypatch.setattr(type(wandb.api), "api_key", None)
    with pytest.raises(InputError, match="not logged in to wandb: run `wandb login`"):
        dashboard.send(composed("dry_run=false"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install -r requirements-extras\.txt"):
        dashboard.build(composed())


def test_what_wandb_refuses_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    def refuse(cfg: DictConfig) -> Any:
        raise wandb.errors.CommError("permission denied\nand much more")

    monkeypatch.setattr(type(wandb.api), "api_key", "a" * 40)
    monkeypatch.setattr(dashboard, "build", refuse)
    with pytest.raises(InputError, match=r"^me/normbt: permission denied \(log runs") as caught:
        dashboard.send(composed("dry_run=false"))
    assert "\n" not in str(caught.value)
