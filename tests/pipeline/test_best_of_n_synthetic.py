"""Best-of-N by a synthetic policy: the matrix's checkpoints pick, code is the gold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import DictConfig

from eval.best_of_n.gold import Verifier
from generated import SUBSETS
from pipeline.experiments import best_of_n as script
from pipeline.experiments import best_of_n_synthetic as synthetic
from pipeline.experiments.best_of_n_scores import score_all
from pipeline.settings.configuration import compose_config
from rm.errors import InputError


def compose(folder: Path, cache: Path, *overrides: str) -> tuple[DictConfig, list[str]]:
    own = [f"runs_dir='{folder}/runs'", f"results_dir='{folder}/results'", f"cache_dir='{cache}'"]
    words = ["profile=smoke", "threads=1", "workers=1", "seeds=[0,1]", *own, *overrides]
    return compose_config("best_of_n", words), words


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """Two methods, two seeds."""
    folder = tmp_path_factory.mktemp("bon")
    script.run(*compose(folder, cache))
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return shutil.copytree(finished, tmp_path / "copy")


def test_the_table_is_what_the_picks_are_worth(finished: Path, cache: Path) -> None:
    """At n = N a pick is the best of all candidates; at n = 1 it is any of them."""
    cfg, _ = compose(finished, cache)
    bon = script.settings_of(cfg)
    gold = np.array(Verifier().score(synthetic.draw(cfg, bon)), dtype=float)
    table = pd.read_csv(finished / "results/data/best_of_n.csv")
    assert set(table["method"]) == {"bt", "normbt", "oracle", "random"}
    assert set(table["gold_kind"]) == {"verifier"} and set(table["seed"]) == {"0", "1", "all"}
    raw = table.set_index(["method", "seed", "n"])["gold_raw"]
    assert raw["oracle", "all", 4] == pytest.approx(gold.max(axis=1).mean(), abs=1e-4)
    for method in ("bt", "normbt"):
        (path,) = (finished / f"runs/train/{method}-seed1").glob("best_of_n-*.npy")
        scores = np.load(path)
        best = scores == scores.max(axis=1, keepdims=True)
        picked = [row[chosen].mean() for row, chosen in zip(gold, best, strict=True)]
        assert raw[method, "1", 4] == pytest.approx(np.mean(picked), abs=1e-4)
        assert raw[method, "1", 1] == pytest.approx(gold.mean(), abs=1e-4)
    facts = json.loads((finished / "results/data/best_of_n.json").read_text())
    assert facts["samples"]["responses"] == gold.size == 24
    assert facts["samples"]["right"] == gold.sum()
    note = (finished / "results/tables/best_of_n.md").read_text()
    assert "independent draws from a synthetic policy: right with probability 0.3" in note
    assert (finished / "results/figures/figure5.svg").stat().st_size > 100


def test_every_kind_of_reasoning_is_asked(tmp_path: Path, cache: Path) -> None:
    cfg, _ = compose(tmp_path, cache, "bon.prompts.number=24")
    drawn = synthetic.draw(cfg, script.check_all(cfg))
    assert {item.subset for item in drawn} == set(SUBSETS["Reasoning"])
    gold = np.array(Verifier().score(drawn), dtype=float)
    assert gold.shape == (24, 4) and 0.1 < gold.mean() < 0.5


@pytest.mark.parametrize(
    ("words", "number"),
    [
        (["profile=cpu"], 80),
        (["profile=cpu", "experiment=confirmatory", "matrix=confirmatory"], 400),
        (["profile=cpu", "bon.prompts.number=7"], 7),
        (["profile=cpu", "data=files", "data.train=x.jsonl"], 400),
    ],
)
def test_small_data_ask_fewer_prompts(words: list[str], number: int) -> None:
    bon = script.settings_of(compose_config("best_of_n", words))
    assert bon.prompts.number == number


def test_scores_equal_those_of_every_candidate_by_itself(finished: Path, cache: Path) -> None:
    cfg, _ = compose(finished, cache, "eval.share_prefix=false", "eval.batch_tokens=1")
    run = finished / "runs/train/normbt-seed0"
    alone = score_all(cfg, run / "checkpoint", synthetic.draw(cfg, script.settings_of(cfg)))
    (path,) = run.glob("best_of_n-*.npy")
    assert np.load(path) == pytest.approx(alone, abs=1e-5)


def test_what_is_there_is_not_computed_again(
    copied: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (copied / "results/data/best_of_n.csv").read_bytes()
    for path in copied.glob("runs/train/*/checkpoint"):
        shutil.rmtree(path)  # as keep_checkpoints=false does
    monkeypatch.setattr(synthetic, "score_all", lambda *_: pytest.fail("scored again"))
    script.run(*compose(copied, cache))
    assert capsys.readouterr().out.count("already trained") == 4
    assert (copied / "results/data/best_of_n.csv").read_bytes() == before


def test_other_eval_settings_or_candidates_are_scored_anew_or_named(
    copied: Path, cache: Path
) -> None:
    run = copied / "runs/train/bt-seed0"
    for words in (["eval.max_length=40"], ["bon.policy.seed=1"]):
        script.run(*compose(copied, cache, "seeds=[0]", "methods=[bt]", *words))
    assert len(list(run.glob("best_of_n-*.npy"))) == 3
    shutil.rmtree(run / "checkpoint")
    with pytest.raises(InputError, match=r"bt-seed0 has not scored .* its weights are gone"):
        script.run(*compose(copied, cache, "seeds=[0]", "methods=[bt]", "bon.policy.seed=2"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["gold=both"], "a synthetic policy's only gold is the verifier"),
        (["data=files", "data.train=a.jsonl"], "draws from the generator, not from data=files"),
        (["methods=[hinge,clip]"], "none is in the matrix: name some of hinge, clip"),
        (["bon.policy.right=1.5"], r"bon.policy.right=1.5: must lie in \[0, 1\]"),
        (["bon.policy.variants=0"], "bon.policy.variants=0: must be 1 or more"),
        (["bon.policy.engine=magic"], "choose auto, synthetic, transformers, vllm"),
        (["seed=1"], "give seeds="),
        (["experiment=confirmatory", "experiment.freeze=null"], "experiment.freeze is not set"),
    ],
)
def test_wrong_settings_are_named_before_anything_is_trained(
    overrides: list[str], message: str, tmp_path: Path, cache: Path
) -> None:
    with pytest.raises(InputError, match=message):
        script.run(*compose(tmp_path, cache, *overrides))
    assert not (tmp_path / "runs/train").exists()
