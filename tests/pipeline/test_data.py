"""The generated data's two experiments: share of close pairs, and swapped labels among them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from omegaconf import DictConfig

from pipeline.settings.configuration import compose_config
from pipeline.settings.data import CLOSE, TrainingData, load_data
from rm.errors import InputError


def load(*words: str) -> TrainingData:
    return load_data(compose_config("train", ["data.train_pairs=200", *words]).data)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.6, 1.0])
def test_share_of_close_pairs(share: float) -> None:
    pairs = load(f"data.close_share={share}").train
    assert len(pairs) == 200
    assert sum(pair.category == CLOSE for pair in pairs) == round(200 * share)


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_label_noise_swaps_sides_of_close_pairs_alone(share: float) -> None:
    clean, noisy = load(), load(f"data.label_noise={share}")
    swapped = 0
    for one, other in zip(clean.train, noisy.train, strict=True):
        assert (one.pair_id, one.prompt) == (other.pair_id, other.prompt)
        if one.chosen == other.rejected:
            swapped += 1
            assert one.category == CLOSE and one.rejected == other.chosen
        else:
            assert one == other
    assert swapped == round(50 * share) == noisy.report["swapped"]
    assert noisy.validation == clean.validation
    assert (noisy.fingerprint == clean.fingerprint) == (share == 0)


@pytest.mark.parametrize("word", ["data.close_share=1.2", "data.label_noise=-0.1"])
def test_a_share_that_is_none_is_refused(word: str) -> None:
    with pytest.raises(InputError, match="from 0 to 1"):
        load(word)


def test_a_folders_validation_split_is_taken_where_it_is_asked_for_and_named_where_not(
    tmp_path: Path,
) -> None:
    files(tmp_path, ["When?", "Where?"])
    words = ["profile=smoke", "data=files", f"data.train={tmp_path}"]
    data = load_data(compose_config("train", [*words, f"data.validation={tmp_path}"]).data)
    assert [pair.prompt[-1]["content"] for pair in data.train] == ["Why?", "How?"]
    assert [pair.prompt[-1]["content"] for pair in data.validation] == ["When?", "Where?"]
    data = load_data(compose_config("train", [*words, "data.validation_share=1"]).data)
    assert len(data.train) == len(data.validation) == 1
    assert data.lines[-1].startswith("  not read: split validation of the folder")


def files(tmp_path: Path, validation: list[str]) -> DictConfig:
    for name, prompts in (("train", ["Why?", "How?"]), ("validation", validation)):
        rows = [{"prompt": prompt, "chosen": "a", "rejected": "b"} for prompt in prompts]
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [f"data.train={tmp_path}/train.jsonl", f"data.validation={tmp_path}/validation.jsonl"]
    return compose_config("train", ["profile=smoke", "data=files", *words]).data


def test_validation_pairs_whose_prompt_is_trained_are_left_out_and_counted(tmp_path: Path) -> None:
    data = load_data(files(tmp_path, ["why? ", "When?", "Where?"]))
    assert data.lines[-1] == "  1 of 3 left out: their prompt is trained on"
    assert [pair.prompt[-1]["content"] for pair in data.validation] == ["When?", "Where?"]
    assert data.report["validation_prompts_trained"] == 1 and len(data.train) == 2
    with pytest.raises(InputError, match="every prompt of the validation data"):
        load_data(files(tmp_path, ["How?"]))
