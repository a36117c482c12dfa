"""The freeze: a changed rule is refused, a changed word is not; no freeze, no test score."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from pipeline.experiments import freeze
from pipeline.experiments.freeze import FROZEN, ROOT, check_freeze, rules
from pipeline.experiments.reproduce import reproduce
from pipeline.settings.configuration import compose_config
from rm.errors import InputError

CODE = """'A module.'
X = 1
'A constant.'


def f(x):
    'Add one.'
    assert x > 0, 'give a number'
    return {'low': x + 1}
"""
CLAIMS = "claims:\n- {id: a, text: words, margins: {supported: 0}}\n"


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@x"]
    found = subprocess.run(["git", *identity, *words], cwd=folder, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


@pytest.fixture
def frozen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """A repository with two frozen files, and the commit that freezes them."""
    monkeypatch.setattr(freeze, "FROZEN", ("a.py", "claims.yaml"))
    (tmp_path / "a.py").write_text(CODE)
    (tmp_path / "claims.yaml").write_text(CLAIMS)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "freeze")
    return tmp_path, git(tmp_path, "rev-parse", "HEAD")


def configured(commit: str | None) -> OmegaConf:
    return OmegaConf.create({"experiment": {"name": "confirmatory", "freeze": commit}})


def test_words_may_change_and_rules_may_not(frozen: tuple[Path, str]) -> None:
    folder, commit = frozen
    before = check_freeze(configured(commit), folder)
    assert before is not None and before["commit"] == commit
    assert set(before["files"]) == {"a.py", "claims.yaml"}
    (folder / "a.py").write_text(
        f"# why\n{CODE}".replace("Add one.", "More.").replace("give a", "a")
    )
    (folder / "claims.yaml").write_text(CLAIMS.replace("words", "other words"))
    assert check_freeze(configured(commit), folder) == before
    (folder / "a.py").write_text(CODE.replace("x + 1", "x + 2"))
    with pytest.raises(InputError, match=r"^a\.py: its rules have changed since the freeze"):
        check_freeze(configured(commit), folder)
    (folder / "a.py").write_text(CODE.replace("low", "high"))
    with pytest.raises(InputError, match=r"^a\.py: its rules have changed"):
        check_freeze(configured(commit), folder)
    (folder / "a.py").write_text(CODE)
    (folder / "claims.yaml").write_text(CLAIMS.replace("supported: 0", "supported: -1"))
    with pytest.raises(InputError, match=r"^claims\.yaml: its rules have changed"):
        check_freeze(configured(commit), folder)


def test_a_commit_outside_the_history_is_named(frozen: tuple[Path, str]) -> None:
    folder, commit = frozen
    with pytest.raises(InputError, match=r"freeze=0123abc is not in this repository's history"):
        check_freeze(configured("0123abc"), folder)
    git(folder, "checkout", "-q", "--orphan", "other")
    git(folder, "commit", "-qm", "the same files, without the freeze")
    with pytest.raises(InputError, match=rf"freeze={commit} is not in .* \(another branch\)"):
        check_freeze(configured(commit), folder)


def test_a_file_that_the_freeze_lacks_is_named(frozen: tuple[Path, str]) -> None:
    with pytest.raises(InputError, match=r"new\.py at commit \w+ cannot be read"):
        freeze.at_commit(frozen[1], "new.py", frozen[0])


def test_only_an_experiment_with_a_freeze_is_checked() -> None:
    assert check_freeze(OmegaConf.create({"experiment": None})) is None
    assert check_freeze(OmegaConf.create({"experiment": {"name": "sgd"}})) is None
    with pytest.raises(InputError, match="no test pair may be scored before"):
        check_freeze(configured(None))


def test_reproduce_scores_no_test_pair_before_the_freeze(tmp_path: Path) -> None:
    words = ["profile=smoke", "experiment=confirmatory", "experiment.freeze=null"]
    words += ["training.compute_dtype=float32", "grid=[]", "methods=[bt]", "seeds=[0]"]
    words += [
        "data=generated_v2_tiny",
        f"runs_dir={tmp_path}/runs",
        f"results_dir={tmp_path}/results",
    ]
    cfg = compose_config("reproduce", words)
    with pytest.raises(InputError, match=r"experiment\.freeze is not set"):
        reproduce(cfg, words)
    assert not [*tmp_path.rglob("scores.parquet")]


@pytest.mark.parametrize("path", FROZEN)
def test_a_frozen_file_is_read_whole(path: str) -> None:
    assert len(rules(path, (ROOT / path).read_text())) == 16


def test_the_committed_results_follow_the_rules_of_their_freeze() -> None:
    """Claims, margins, analysis and runs are those that were fixed before test data were scored."""
    made = [json.loads(path.read_text()) for path in sorted(ROOT.glob("results/*/manifest.json"))]
    found = [manifest["freeze"] for manifest in made if "freeze" in manifest]
    if not found:
        pytest.skip("no results of a frozen experiment are committed yet")
    for one in found:
        assert set(one["files"]) == set(FROZEN)
        for path, fingerprint in one["files"].items():
            assert rules(path, (ROOT / path).read_text()) == fingerprint, path
