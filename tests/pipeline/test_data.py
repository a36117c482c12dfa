"""Training data: swapped labels, validation pairs of files, and the draws of the generated data."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from generated import SUBSETS
from pipeline.run.run_folder import comparable
from pipeline.settings import data as data_settings
from pipeline.settings.configuration import compose_config
from pipeline.settings.data import (
    CLOSE,
    TrainingData,
    content_fingerprint,
    draw_pairs,
    load_data,
    source_fingerprint,
)
from pipeline.settings.data import test_pairs as make_test_pairs
from rm.data.preferences import PreferencePair
from rm.errors import InputError


def load(*words: str) -> TrainingData:
    return load_data(tasks("data.train_pairs=200", *words))


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


@pytest.mark.parametrize("word", ["data.label_noise=1.2", "data.label_noise=-0.1"])
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


# --- Draws of the generated data -----------------------------------------------------------------


def tasks(*words: str) -> DictConfig:
    small = ["data.pool_pairs=400", "data.train_pairs=120", "data.validation_pairs=40"]
    return compose_config("train", ["data=generated_v2", *small, *words]).data


def test_every_seed_draws_its_own_pairs_from_one_pool() -> None:
    pool = {pair.pair_id: pair for pair in load_data(tasks("data.train_pairs=400")).train}
    draws = [load_data(tasks(f"seed={seed}")) for seed in (0, 1)]
    for made in draws:
        assert len({pair.pair_id for pair in made.train}) == 120 and made.report["pool"] == 400
        assert all(pool[pair.pair_id] == pair for pair in made.train)
        assert Counter(pair.category for pair in made.train) == dict.fromkeys(SUBSETS, 30)
        assert not {p.prompt[0]["content"] for p in made.train} & {
            p.prompt[0]["content"] for p in made.validation
        }
    one, two = ({pair.pair_id for pair in made.train} for made in draws)
    assert 10 < len(one & two) < 80  # 36 are expected
    assert draws[0].validation == draws[1].validation
    assert load_data(tasks("seed=1")).fingerprint == draws[1].fingerprint


def test_the_draw_is_part_of_the_configuration() -> None:
    words = ["data=generated_v2", "seed=3"]
    config = compose_config("train", words)
    assert OmegaConf.to_container(config.data, resolve=True)["draw"] == 3  # type: ignore[call-overload,index]
    methods = [comparable(compose_config("train", [*words, f"loss={m}"])) for m in ("bt", "normbt")]
    assert methods[0]["data.draw"] == methods[1]["data.draw"] == 3


@pytest.mark.parametrize("version", ["1", "3", "null", "~"])
def test_another_version_of_the_data_says_where_the_first_one_is(version: str) -> None:
    words = ["~data.version"] if version == "~" else [f"data.version={version}"]
    data, said = tasks(*words), version.replace("null", "None").replace("~", "1")
    for use in (load_data, make_test_pairs, source_fingerprint):
        with pytest.raises(InputError, match=rf"data\.version={said}: .*commit 3a2f5f8 has it"):
            use(data)


@pytest.mark.parametrize("name", ["generated_v2_small", "generated_v2_tiny"])
def test_smaller_data_are_the_same_kind_and_end_in_seconds(name: str) -> None:
    whole, data = tasks("data.label_noise=0"), compose_config("train", [f"data={name}"]).data
    assert set(data) == set(whole) and (data.kind, data.version) == ("generated", 2)
    made = load_data(data)
    sizes = (len(made.pool), len(made.train), len(made.validation))
    assert sizes == (data.pool_pairs, data.train_pairs, data.validation_pairs)
    tested = Counter(one.subset for one in make_test_pairs(OmegaConf.merge(data, {"seed": 3})))
    assert set(tested) == {name for names in SUBSETS.values() for name in names}


def test_the_smoke_profile_reads_no_pair_of_the_confirmatory_experiment() -> None:
    smoke = compose_config("train", ["profile=smoke"]).data
    assert smoke.name == "generated_v2_tiny"
    assert smoke.seed != compose_config("train", ["data=generated_v2"]).data.seed


def test_shares_of_a_draw_follow_the_pool() -> None:
    pool = [PreferencePair(str(i), (), "a", "b", category="xy"[i % 3 == 0]) for i in range(90)]
    drawn = draw_pairs(pool, 30, 5)
    assert Counter(pair.category for pair in drawn) == {"x": 20, "y": 10}
    assert [int(p.pair_id) for p in drawn] == sorted(int(p.pair_id) for p in drawn)
    assert draw_pairs(pool, 90, 5) == pool
    with pytest.raises(InputError, match=r"data\.train_pairs=91: the pool has 90"):
        draw_pairs(pool, 91, 5)


def test_the_test_split_has_the_sizes_of_the_design() -> None:
    data = tasks("data.seed=3")  # not the seed of the confirmatory test pairs
    made = make_test_pairs(data)
    assert Counter(one.pair.category for one in made) == dict(data.test_pairs)
    close = [m.subset.endswith("close") for m in made if m.pair.category == "Reasoning"]
    assert len(close) == 1500 and sum(close) == 750
    assert len(make_test_pairs(tasks("data.seed=3", "data.test_pairs=40"))) == 40


@pytest.mark.parametrize("words", [["data=files", "data.train=o/n"], ["data=skywork_80k"]])
def test_another_revision_on_the_hub_is_other_content(
    monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    """Its cached tokens would be those of the earlier one."""
    cfg = compose_config("train", ["profile=smoke", *words])
    found = []
    for revision in ("one", "two"):
        monkeypatch.setattr(data_settings, "hub_files", lambda *_, revision=revision: [revision])
        found.append(content_fingerprint(cfg.data))
    assert found[0] != found[1]
