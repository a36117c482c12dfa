"""Best-of-N by a real policy on the smoke profile: end to end, resumed, and refused."""

from __future__ import annotations

import contextlib
import importlib
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import DictConfig

from pipeline.experiments import best_of_n as script
from pipeline.experiments import best_of_n_material as making
from pipeline.experiments import best_of_n_proxies as proxies
from pipeline.experiments import best_of_n_scores, sampling_ranks
from pipeline.launch import ranks
from pipeline.launch.launchers import Launcher
from pipeline.run import scoring_ranks
from pipeline.settings.configuration import CONF, compose_config
from pipeline.settings.data import TrainingData, load_data
from rm.data.preferences import PreferencePair
from rm.errors import InputError

pytestmark = pytest.mark.slow

SMALL = [
    "profile=smoke",
    "bon.policy.engine=transformers",
    "bon.golds=[verifier,reward_model]",
    "bon.policy.samples=3",
    "bon.prompts.number=3",
    "bon.prompts.subsets=[gen2-counts-close,gen2-python-far]",
    "bon.proxy.seeds=[0]",
    "threads=1",
]


def compose(folder: Path, cache: Path, *overrides: str) -> tuple[DictConfig, list[str]]:
    own = [f"runs_dir='{folder}/runs'", f"results_dir='{folder}/results'", f"cache_dir='{cache}'"]
    words = [*SMALL, *own, *overrides]
    return compose_config("best_of_n", words), words


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """Both golds, two methods, one seed."""
    folder = tmp_path_factory.mktemp("bon")
    script.run(*compose(folder, cache))
    return folder


def test_everything_is_written(finished: Path) -> None:
    results = finished / "results"
    frame = pd.read_csv(results / "data" / "best_of_n.csv")
    wanted = ["method", "seed", "n", "kl", "proxy", "gold", "gold_low", "gold_high"]
    assert [name for name in frame.columns if name in wanted] == wanted
    assert set(frame["method"]) == {"bt", "normbt", "oracle", "random"}
    assert set(frame["gold_kind"]) == {"verifier", "reward_model"}
    assert set(frame["n"]) == {1, 2, 3}
    reward = frame[frame["gold_kind"] == "reward_model"].set_index(["method", "seed", "n"])
    assert reward.loc[("oracle", "all", 3), "gold"] >= reward.loc[("bt", "all", 3), "gold"]
    assert reward.loc[("random", "all", 3), "gold"] == pytest.approx(0, abs=1e-5)
    for name in ("figures/figure5.png", "figures/figure5.svg", "tables/best_of_n.md"):
        assert (results / name).stat().st_size > 100
    facts = json.loads((results / "data" / "best_of_n.json").read_text())
    assert facts["samples"]["responses"] == 9
    labels = facts["golds"]["verifier"]["relabelled"]
    assert labels["disagreement"] == 0 and labels["kept"] == 16  # its labels are verified already
    labels = facts["golds"]["reward_model"]["relabelled"]
    assert labels["pairs"] == 16 == labels["kept"] + labels["ties"]


def test_what_is_there_is_not_computed_again(
    finished: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = finished / "results" / "data" / "best_of_n.csv"
    before = path.read_bytes()
    trained: list[DictConfig] = []
    monkeypatch.setattr(sampling_ranks, "open_sampler", lambda *_: pytest.fail("sampled again"))
    monkeypatch.setattr(proxies, "RewardGold", lambda *_: pytest.fail("scored by gold again"))
    monkeypatch.setattr(proxies, "score_all", lambda *_: pytest.fail("scored again"))
    real = proxies.train
    monkeypatch.setattr(proxies, "train", lambda cfg: trained.append(cfg) or real(cfg))
    script.run(*compose(finished, cache))
    assert path.read_bytes() == before
    assert len(trained) == 1 and "gold-" in trained[0].run_dir  # finished: train() returns at once
    assert not list(finished.glob("runs/best_of_n/proxy-*/checkpoint"))  # keep=false


def test_several_ranks_sample_score_and_relabel_as_one(
    finished: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    def in_this_process(_: Launcher, module: str, folder: Path, devices: int) -> None:
        started.append(module)
        for rank in range(devices):
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("RANK", str(rank))
                patch.setenv("WORLD_SIZE", str(devices))
                importlib.import_module(module).main(str(folder))

    monkeypatch.setattr(ranks, "noted", lambda _: contextlib.nullcontext())
    for module in (sampling_ranks, scoring_ranks):
        monkeypatch.setattr(module, "start_ranks", in_this_process)
    for module in (proxies, best_of_n_scores):
        monkeypatch.setattr(module, "scoring_devices", lambda _: 2)
    script.run(*compose(tmp_path, cache))
    # The samples; the gold's scores of them and of the pairs; two proxies by each gold.
    assert Counter(started) == {
        "pipeline.experiments.sampling_rank": 1,
        "pipeline.run.scoring_rank": 2 + 2 * 2,
    }
    name = "results/data/best_of_n.csv"
    assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()
    left = [*tmp_path.rglob("*.ranks"), *tmp_path.rglob("scoring"), *tmp_path.rglob("*.partial")]
    assert left == []


def test_a_lost_proxy_score_is_made_again_and_equal(finished: Path, cache: Path) -> None:
    path = next(finished.glob("runs/best_of_n/proxy-*/scores-*.npy"))
    before = np.load(path)
    path.unlink()
    script.run(*compose(finished, cache))
    assert np.load(path) == pytest.approx(before, abs=1e-5)


def test_one_gold_from_a_checkpoint_of_ones_own(
    finished: Path, cache: Path, tmp_path: Path
) -> None:
    """The samples are taken over; the gold is the folder given."""
    work = tmp_path / "runs/best_of_n"
    work.mkdir(parents=True)
    samples = next(finished.glob("runs/best_of_n/samples-*.jsonl"))
    (work / samples.name).write_bytes(samples.read_bytes())
    gold = next(finished.glob("runs/best_of_n/gold-*/checkpoint"))
    words = [f"bon.gold.checkpoint='{gold}'", "gold=reward_model", "bon.proxy.methods=[bt]"]
    cfg, overrides = compose(tmp_path, cache, *words)
    script.run(cfg, overrides)
    theirs, ours = (
        pd.read_csv(folder / "results" / "data" / "best_of_n.csv").query(
            "gold_kind == 'reward_model' and method == 'oracle'"
        )
        for folder in (finished, tmp_path)
    )
    assert ours["gold"].to_numpy() == pytest.approx(theirs["gold"].to_numpy(), abs=1e-4)


def test_a_changed_template_or_eval_setting_gives_new_samples_and_scores(
    finished: Path, cache: Path, tmp_path: Path
) -> None:
    policy = tmp_path / "policy"
    shutil.copytree(cache / "backbones" / "tiny-llama", policy)
    words = [f"model.path='{policy}'", "bon.proxy.methods=[bt]", "bon.proxy.keep=true"]
    work = tmp_path / "runs/best_of_n"

    def made(*own: str) -> dict[str, set[str]]:
        script.run(*compose(tmp_path, cache, *words, *own))
        kinds = ("samples-*.jsonl", "gold-reward_model-*.npy", "proxy-*/scores-*.npy")
        return {kind: {str(path) for path in work.glob(kind)} for kind in kinds}

    first = made()
    other_eval = made("eval.max_length=40")
    number = {kind: len(other_eval[kind] - names) for kind, names in first.items()}
    assert list(number.values()) == [0, 1, 2]  # a proxy by each gold
    assert len(list(work.glob("proxy-*/checkpoint"))) == 3  # and new labels by one
    assert made("eval.resamples=7") == other_eval
    template = policy / "chat_template.jinja"
    template.write_text(
        template.read_text().replace("message['role'] +", "message['role'] + 's' +")
    )
    other_template = made()
    number = {kind: len(other_template[kind] - names) for kind, names in other_eval.items()}
    assert list(number.values()) == [1, 1, 2]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["gold=human"], "gold=human: choose verifier, reward_model, both"),
        (["bon.golds=[]"], "choose from verifier, reward_model"),
        (["bon.resamples=0"], "bon.resamples=0: must be 1 or more"),
        (["bon.proxy.seeds=[-1]"], "bon.proxy.seeds=-1: must be 0 or more"),
        (["bon.policy.model=5"], "group override must be a string"),
        (["bon.policy.dtype=int4"], "choose float32"),
        (["bon.proxy.methods=[best]"], "there is no loss/best; valid: bsr, bt"),
        (["bon.prompts.subsets=[gen-tetris]"], "no subset 'gen-tetris': choose from gen2-explain"),
        (["bon.prompts.number=900000"], "exist"),
        (["data=files", "data.train=a.jsonl"], "gold=verifier checks generated prompts"),
        (["data=files", "data.train=a.jsonl", "gold=reward_model"], "give bon.gold.checkpoint"),
        (["gold=reward_model", "bon.gold.pairs=0"], "needs bon.gold.checkpoint=FOLDER"),
        (["bon.policy.path=/nowhere"], "not a model folder"),
        (["bon.policy.temprature=1"], "unknown key bon.policy.temprature"),
    ],
)
def test_wrong_settings_are_named(
    overrides: list[str], message: str, tmp_path: Path, cache: Path
) -> None:
    with pytest.raises(InputError, match=message):
        script.run(*compose(tmp_path, cache, *overrides))


def test_subsets_that_code_cannot_check_are_named(tmp_path: Path, cache: Path) -> None:
    words = ["gold=verifier", "bon.prompts.subsets=[gen2-ideas-far]"]
    with pytest.raises(InputError, match=r"cannot check every response of gen2-ideas-far \(3\)"):
        script.run(*compose(tmp_path, cache, *words))


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "bon").glob("[a-z]*.yaml")))
def test_every_size_composes(name: str) -> None:
    profile = name.split("_")[0]
    cfg = compose_config("best_of_n", [f"profile={profile}", f"bon={name}"])
    bon = script.settings_of(cfg)
    assert bon.name == name
    for method in bon.proxy.methods:
        own = [*bon.proxy.overrides, f"loss={method}", "run_dir=x", "data=files", "data.train=y"]
        composed = proxies.compose_run([f"profile={profile}"], own)
        assert (composed.loss.name, composed.data.train) == (method, "y")


@pytest.mark.parametrize("profile", ["smoke", "cpu", "paper"])
def test_a_profile_brings_its_size(profile: str) -> None:
    assert compose_config("best_of_n", [f"profile={profile}"]).bon.name == profile


@pytest.mark.parametrize("subsets", ["[gen2-counts-far,gen2-python-close,gen2-harmful-far]", "[]"])
def test_proxies_gold_and_prompts_share_no_prompt(subsets: str) -> None:
    """And none of them is in the pool that the profile trains on."""
    own = ["bon.policy.engine=auto", "bon.gold.pairs=1600", f"bon.prompts.subsets={subsets}"]
    cfg = compose_config("best_of_n", ["profile=cpu", "gold=reward_model", *own])
    bon = script.settings_of(cfg)
    material = making.find_material(cfg, bon)
    asked = {prompt.turns[-1]["content"] for prompt in material.prompts}
    trained_on = {pair.prompt[-1]["content"] for pair in material.pairs}
    gold = {made.pair.prompt[-1]["content"] for made in making.gold_pairs(cfg, bon)}
    pool = {pair.prompt[-1]["content"] for pair in load_data(cfg.data).pool}
    assert (len(asked), len(trained_on)) == (bon.prompts.number, bon.proxy.pairs)
    assert not asked & trained_on and not asked & gold and not trained_on & gold
    assert pool < gold
    of = Counter(material.subsets)
    assert set(of) == set(making.subsets_of(bon)) and max(of.values()) - min(of.values()) <= 1


def test_no_sample_of_a_real_policy_depends_on_the_settings_of_a_synthetic_one(
    tmp_path: Path,
) -> None:
    (tmp_path / "config.json").write_text("{}")

    def fingerprint(*own: str) -> str:
        bon = script.settings_of(compose_config("best_of_n", [*SMALL, *own]))
        return proxies.samples_fingerprint(bon, tmp_path, "transformers")

    assert fingerprint("bon.policy.right=0.5", "bon.policy.variants=9") == fingerprint()
    assert fingerprint("bon.policy.temperature=0.5") != fingerprint()


@pytest.mark.parametrize("subsets", ["[]", "[gen2-counts-close,gen2-python-far]"])
def test_the_prompts_alone_are_those_of_the_whole_material(subsets: str) -> None:
    words = ["profile=smoke", "bon.policy.engine=transformers", f"bon.prompts.subsets={subsets}"]
    cfg = compose_config("best_of_n", words)
    bon = script.settings_of(cfg)
    assert making.find_prompts(cfg, bon) == making.find_material(cfg, bon).prompts


def test_prompts_and_pairs_of_ones_own_data(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Question {i % 30}?", "chosen": f"good {i}", "rejected": f"bad {i}"}
        for i in range(60)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["profile=smoke", "data=files", f"data.train='{path}'", "data.validation_share=0.2"]
    words += ["gold=reward_model", "bon.gold.checkpoint=owner/name", "bon.proxy.pairs=20"]
    words += ["bon.policy.engine=transformers"]
    cfg = compose_config("best_of_n", [*words, "bon.prompts.number=4"])
    material = making.find_material(cfg, script.settings_of(cfg))
    assert len(material.prompts) == 4 and len(material.pairs) == 20
    assert making.find_prompts(cfg, script.settings_of(cfg)) == material.prompts
    asked = {prompt.turns[-1]["content"] for prompt in material.prompts}
    assert not asked & {pair.prompt[-1]["content"] for pair in material.pairs}
    leaky = tmp_path / "validation.jsonl"  # a validation file that shares prompts with training
    own = [{**row, "prompt": f"Another {n}?"} for n, row in enumerate(rows[:6])]
    leaky.write_text("".join(json.dumps(row) + "\n" for row in [*rows[:10], *own]))
    cfg.data.validation = str(leaky)
    material = making.find_material(cfg, script.settings_of(cfg))
    asked = {prompt.turns[-1]["content"] for prompt in material.prompts}
    assert not asked & {pair.prompt[-1]["content"] for pair in material.pairs}


def test_prompts_of_a_source_are_a_sample_of_all_its_parts() -> None:
    """A file may list its rows by origin; the first ones would all be of one."""
    ask = [({"role": "user", "content": f"{origin} {n}"},) for origin in "abcd" for n in range(50)]
    pairs = [PreferencePair(str(n), prompt, "yes", "no") for n, prompt in enumerate(ask)]
    bon = script.settings_of(compose_config("best_of_n", ["bon=paper", "bon.prompts.number=20"]))
    chosen = making._source_prompts(TrainingData([], pairs, {}), bon, 0)
    assert Counter(one.turns[0]["content"][0] for one in chosen).keys() == set("abcd")
    assert chosen == making._source_prompts(TrainingData([], pairs, {}), bon, 0)
    assert chosen != making._source_prompts(TrainingData([], pairs, {}), bon, 1)


@pytest.mark.parametrize("experiment", ["gemma_unified_feedback", "llama_skywork_80k"])
def test_proxies_at_paper_scale_train_as_in_the_script_of_the_protocol(experiment: str) -> None:
    words = ["profile=paper", f"experiment={experiment}"]
    bon = script.settings_of(compose_config("best_of_n", words))
    one = proxies.outline(proxies.proxy_words(words), [*bon.proxy.overrides, "loss=bt"]).training
    assert (one.part, one.lora.r, one.learning_rate, one.epochs) == ("lora", 32, 5e-6, 1)
    assert (one.max_length, one.global_batch) == (3000, 256)
