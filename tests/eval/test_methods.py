"""What methods are called and compared with, by their files."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from eval import methods
from eval.methods import base_of, described
from rm.errors import InputError


def test_what_a_method_is_compared_with() -> None:
    present = {"bt", "bt_margin", "mlp"}
    expected = {"normbt": "bt", "normbt_margin": "bt_margin", "normbt_mlp": "mlp", "hinge": "bt"}
    expected |= {"normbt_margin_out": None, "bt": None, "bt_margin": None, "normbt_random": "bt"}
    assert {method: base_of(method, present) for method in expected} == expected
    assert base_of("normbt_mlp", {"bt", "normbt"}) == "bt"  # of its base, which was not run
    assert base_of("normbt", {"bt_margin"}) is None


def test_every_loss_file_says_all_of_itself() -> None:
    for path in methods.LOSSES.glob("[!_]*.yaml"):
        own = yaml.safe_load(path.read_text())
        assert {"name", "label", "base", "role"} <= set(own), path.name
        assert described(path.stem).name == own["name"] == path.stem
    labels = [one.label for one in methods.methods(methods.LOSSES).values()]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("bt_square", "BT + square"),
        ("normbt_own_idea", "NormBT + own idea"),
        ("my_loss", "my loss"),
        ("untrained", "untrained"),
    ],
)
def test_a_method_without_a_file_has_a_label_and_is_a_rival(name: str, label: str) -> None:
    found = described(name)
    assert (found.label, found.role) == (label, "rival")
    assert base_of(name, {"bt"}) == "bt"
    assert base_of("normbt_own_idea", {"bt", "own_idea"}) == "own_idea"


def test_a_label_is_not_inherited(tmp_path: Path) -> None:
    (tmp_path / "bt.yaml").write_text("name: bt\nlabel: BT\nbase: null\nrole: variant\n")
    (tmp_path / "mine.yaml").write_text("defaults: [bt, _self_]\nname: mine\n")
    (tmp_path / "file.yaml").write_text("defaults: [bt, _self_]\nname: other\nbase: mine\n")
    (tmp_path / "_shared.yaml").write_text("weight: {}\n")
    found = methods.methods(tmp_path)
    assert set(found) == {"bt", "mine", "other"}
    assert found["mine"] == methods.Method("mine", "mine", "bt", "rival")
    assert found["other"].base == "mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("role: twin", "mine.yaml: role=twin: choose variant, form, rival, control"),
        ("label: 5", "mine.yaml: label=5, .*: give texts"),
        ("base: [bt]", r"base=\['bt'\]: give texts"),
        ("base: nowhere", "mine has base=nowhere, and no file has that name"),
        ("base: mine", "bases of mine go in a circle: mine → mine"),
        ("name: bt", "two files have name: bt: rename one"),
        ("a: [", "mine.yaml cannot be read as YAML"),
        ("", "mine.yaml has no keys"),
    ],
)
def test_a_file_that_says_nonsense_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bt.yaml").write_text("name: bt\n")
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        methods.methods(tmp_path)
