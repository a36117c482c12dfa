"""Models that people bring, through the commands: trained, scored, or refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from generated import generate
from pipeline.run.evaluation import evaluate
from pipeline.settings.configuration import compose_config, hydra_words
from rm.data.preferences import write_pairs
from rm.errors import InputError
from tests.models import gemma3_folder

Train = Callable[..., Path]
PAIRS = ("data.train_pairs=48", "training.max_length=256", "loss=normbt")
TRUNK = ("training.part=top_layers", "training.top_layers=2", "training.reuse_trunk=true")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty generated test pairs."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    write_pairs([made.pair for made in generate("test", 20, 0)], path)
    return path


def steps_of(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def facts_of(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / "manifest.json").read_text())
    return found


def scores(run_dir: Path, pairs: Path, output: Path, *words: str) -> pd.DataFrame:
    """Rewards of the pairs by a run's checkpoint."""
    own = [f"checkpoint='{run_dir}/checkpoint'", f"output='{output}'", f"cache_dir='{output}-c'"]
    own += ["benchmark=pairs", f"data={pairs}", "eval.resamples=50", *words]
    evaluate(compose_config("evaluate", hydra_words(own)))
    return pd.read_parquet(output / "scores.parquet")[["reward_chosen", "reward_rejected"]]


# --- Sliding windows ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sliding(backbone_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Gemma 3 with a window of 256 tokens, as many as the longest row may have."""
    folder = tmp_path_factory.mktemp("sliding") / "gemma3"
    return gemma3_folder(backbone_folders["gemma"], folder, window=256)


@pytest.mark.parametrize("trunk", [(), TRUNK], ids=["whole", "trunk"])
def test_rows_within_the_window_share_prefixes_and_train_the_same(
    sliding: Path, train_smoke: Train, pairs: Path, tmp_path: Path, trunk: tuple[str, ...]
) -> None:
    own = ("model=local", f"model.path={sliding}", *PAIRS, *trunk)
    one, other = (train_smoke(*own, f"training.share_prefix={share}") for share in (False, True))
    assert len(steps_of(one)) == len(steps_of(other)) == 6
    for a, b in zip(steps_of(one), steps_of(other), strict=True):
        for key in ("loss", "mu", "distance_mean", "weight_mean", "gradient_norm"):
            assert a[key] == pytest.approx(b[key], rel=2e-4, abs=2e-4), key
    assert facts_of(other)["batches"]["computed"] < facts_of(one)["batches"]["computed"]
    alone = scores(other, pairs, tmp_path / "alone", "eval.share_prefix=false")
    together = scores(other, pairs, tmp_path / "together")
    assert facts_of(tmp_path / "together")["scoring"]["share_prefix"]
    assert alone.to_numpy() == pytest.approx(together.to_numpy(), rel=1e-4, abs=1e-5)


def test_rows_longer_than_the_window_do_not_share(
    sliding: Path, train_smoke: Train, pairs: Path, tmp_path: Path, capsys: Any
) -> None:
    own = ("model=local", f"model.path={sliding}", *PAIRS, "training.max_length=257")
    message = r"training\.share_prefix=true: .* window of 256 tokens, and rows have up to 257"
    with pytest.raises(InputError, match=message):
        train_smoke(*own, "training.share_prefix=true")
    made = train_smoke(*own)
    scores(made, pairs, tmp_path / "scored")
    assert "prefixes are not shared: Gemma3TextModel attends within" in capsys.readouterr().out
    assert not facts_of(tmp_path / "scored")["scoring"]["share_prefix"]
