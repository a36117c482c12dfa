"""From a file of conf/loss to its objective; files of a user's own, in a copy of conf/."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from omegaconf import OmegaConf

from eval.methods import described
from pipeline.run.run_folder import comparable, differences
from pipeline.settings import configuration
from pipeline.settings.checks import check
from pipeline.settings.configuration import CONF, compose_config
from pipeline.settings.objective import objective_of
from rm.errors import InputError
from rm.objective.objective import Objective
from rm.objective.whole_batch import whole_batch

LOSSES = sorted(path.stem for path in (CONF / "loss").glob("[!_]*.yaml"))
WHOLE = {
    *("bsr", "normbt_standardised", "normbt_shuffled", "normbt_mean_for_all"),
    *("normbt_shuffled_within", "normbt_category_mean", "similarity_margin"),
}
BY_MARGIN = {"bt_margin", "bt_margin_out", "normbt_margin", "normbt_margin_out"}
BY_CATEGORY = {"normbt_shuffled_within", "normbt_category_mean", "category_weights"}
SPLIT = ("training.global_batch=8", "training.micro_batch=4")
OWN = """
defaults: [normbt, _self_]
name: mine
"""


@pytest.fixture
def own_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Write conf/loss/mine.yaml into a copy of conf/ that is composed from afterwards."""
    copied = tmp_path / "conf"
    shutil.copytree(CONF, copied)
    monkeypatch.setattr(configuration, "CONF", copied)

    def write(text: str) -> None:
        (copied / "loss" / "mine.yaml").write_text(text)

    return write


def made(*words: str) -> Objective:
    return objective_of(compose_config("train", ["profile=smoke", *words]).loss)


def test_what_every_loss_needs_of_a_run_follows_from_its_parts() -> None:
    found = {name: made(f"loss={name}") for name in LOSSES}
    assert {name for name, one in found.items() if one.whole_batch} == WHOLE
    assert {name for name, one in found.items() if one.needs_margin} == BY_MARGIN
    assert {name for name, one in found.items() if one.needs_category} == BY_CATEGORY
    assert {name for name, one in found.items() if one.every_token} == {"grm", "normbt_mean_pooled"}
    heads = {name: one.head for name, one in found.items() if one.head != "linear"}
    assert heads == {"layer_norm": "layer_norm", "mlp": "mlp", "normbt_mlp": "mlp"}
    assert described("normbt_margin_out").label == "NormBT + margin out"
    assert (described("normbt_mlp").base, described("normbt_mlp").role) == ("mlp", "form")


@pytest.mark.parametrize("loss", LOSSES)
def test_batches_are_divided_just_for_the_losses_that_allow_it(loss: str) -> None:
    whole = ["training.share_prefix=false", "training.global_batch=8", "training.micro_batch=8"]
    check(compose_config("train", ["profile=smoke", f"loss={loss}", *whole]))
    cfg = compose_config("train", ["profile=smoke", f"loss={loss}", *whole, SPLIT[1]])
    if loss in WHOLE:
        with pytest.raises(InputError, match=f"loss={loss} needs the global batch in one piece"):
            check(cfg)
    else:
        check(cfg)


@pytest.mark.parametrize(
    "part",
    [
        "weight:\n  _target_: rm.objective.weights.Shuffled",
        "weight:\n  _target_: rm.objective.weights.MeanForAll",
        "distance:\n  _target_: rm.objective.distances.Standardised",
        "deal:\n  _partial_: true\n  _target_: rm.objective.weights.dealt_within",
        "deal:\n  _partial_: true\n  _target_: rm.objective.weights.mean_within",
        "regularizer:\n  _partial_: true\n  _target_: rm.objective.losses.batch_sum_to_zero\n"
        "  coefficient: 0.1",
        "regularizer:\n  _partial_: true\n  _target_: own_parts.spread\n  coefficient: 0.1",
    ],
)
def test_a_users_loss_over_whole_batches_is_refused_without_any_flag(
    part: str, own_loss: Callable[[str], None], own_parts: ModuleType
) -> None:
    own_loss(OWN + part)
    with pytest.raises(InputError, match="loss=mine needs the global batch in one piece"):
        check(compose_config("train", ["profile=smoke", "loss=mine", *SPLIT]))
    whole = ["training.global_batch=8", "training.micro_batch=8"]
    check(compose_config("train", ["profile=smoke", "loss=mine", *whole]))


@pytest.fixture
def own_parts(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of the user's with a penalty over the whole batch."""
    module = ModuleType("own_parts")

    @whole_batch
    def spread(chosen: torch.Tensor, rejected: torch.Tensor, *, coefficient: float) -> torch.Tensor:
        return coefficient * (chosen - chosen.mean()).square()

    module.spread = spread  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_parts", module)
    return module


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (OWN + "wieght: {}", "loss=mine: unknown key wieght; valid: pair_loss, weight, .*, role"),
        (OWN + "whole_batch: true", "unknown key whole_batch; the parts say so .*: delete it"),
        (OWN + "needs_margin: false", "unknown key needs_margin; the parts say so"),
        ("name: mine\nweight: {_target_: rm.objective.weights.Uniform}", "mine has no pair_loss"),
        (OWN + "weight: null", "loss=mine has no weight: conf/loss/bt.yaml shows one"),
        (OWN + "weight:\n  gamma: 2", "loss=mine: weight: .*gamma"),
        (OWN + "weight:\n  beta: 2", r"weight\.beta=2: must be a number from 0 to 1"),
        (
            OWN + "pair_loss:\n  _target_: rm.objective.losses.no_such",
            "loss=mine: pair_loss: .*no_such",
        ),
        (OWN + "pair_loss: bt", "loss=mine: pair_loss: Cannot instantiate config of type str"),
        (
            "defaults: [bt, _self_]\nname: mine\nweight:\n  _target_: null",
            "loss=mine: weight: .*callable",
        ),
    ],
)
def test_a_users_loss_that_cannot_be_is_one_line(
    text: str, message: str, own_loss: Callable[[str], None]
) -> None:
    own_loss(text)
    with pytest.raises(InputError, match=message):
        check(compose_config("train", ["profile=smoke", "loss=mine"]))


def test_a_users_loss_is_not_called_by_the_label_that_it_inherits(
    own_loss: Callable[[str], None],
) -> None:
    own_loss(OWN)
    assert made("loss=mine").name == "mine"
    found = described("mine")
    assert (found.name, found.label, found.base, found.role) == ("mine", "mine", "bt", "rival")


def test_words_for_tables_make_no_run_stale() -> None:
    now = compose_config("train", ["profile=smoke", "loss=bt_margin"])
    kept = {k: v for k, v in now.loss.items() if k not in ("label", "base", "role")}
    earlier = OmegaConf.create({**now, "loss": kept})
    assert differences(comparable(now), comparable(earlier)) == []
    earlier.loss.head = "mlp"
    assert differences(comparable(now), comparable(earlier)) == ["loss.head: None ≠ mlp"]
