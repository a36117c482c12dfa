"""One training run: its files, its invariances, resuming, and input that cannot work."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, TrainingArguments

from pipeline.run.run_folder import comparable, differences
from pipeline.run.training import batches_of, prepare, train
from pipeline.settings.checks import check
from pipeline.settings.configuration import compose_config
from rm.errors import InputError
from rm.model.attention import flex_plan
from rm.model.checkpoints import load_reward_model
from rm.training.batches import training_order
from rm.training.settings import training_arguments
from rm.training.trainer import CATEGORIES

Train = Callable[..., Path]
LORA = (
    *("training.part=lora", "+training.lora.r=4", "+training.lora.alpha=8"),
    "+training.lora.dropout=0.0",
)
TWENTY = ("data.train_pairs=160", "loss=normbt", "training.micro_batch=2")
COMPARED = ("loss", "mu", "distance_mean", "weight_mean", "reward_margin", "pair_loss")


def steps_of(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def by_category(step: dict[str, Any]) -> dict[str, float]:
    """The mean weights of the categories that a step has pairs of."""
    return {key: value for key, value in step.items() if key.startswith("weight_mean_")}


def weights_of(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "checkpoint" / "model.safetensors")


def assert_same_run(
    one: Path, other: Path, rtol: float, compared: Sequence[str] = COMPARED
) -> None:
    """Same μ, weights and losses at every step, and the same final parameters."""
    ours, theirs = steps_of(one), steps_of(other)
    assert len(ours) == len(theirs) == 20
    for a, b in zip(ours, theirs, strict=True):
        assert by_category(a).keys() == by_category(b).keys()
        for key in (*compared, *by_category(a)):
            assert a[key] == pytest.approx(b[key], rel=rtol, abs=rtol), (a["step"], key)
    for name, value in weights_of(one).items():
        assert torch.allclose(value, weights_of(other)[name], rtol=rtol, atol=rtol), name


@pytest.fixture(scope="module")
def reference(train_smoke: Train) -> Path:
    """Twenty steps of NormBT on one device, eight pairs at once."""
    return train_smoke("data.train_pairs=160", "loss=normbt", "training.micro_batch=8")


def test_a_run_writes_what_it_promises(reference: Path) -> None:
    manifest = json.loads((reference / "manifest.json").read_text())
    assert manifest["seed"] == 0 and manifest["steps"] == 20
    assert manifest["tokens"]["pairs"] == 160 and manifest["tokens"]["tokens"] > 1000
    assert len(manifest["data_fingerprint"]) >= 16
    assert manifest["environment"]["packages"]["torch"] == torch.__version__.split("+")[0] or (
        manifest["environment"]["packages"]["torch"] == torch.__version__
    )
    assert "random weights" in manifest["backbone"]
    saved = yaml.safe_load((reference / "config.yaml").read_text())
    assert saved["loss"]["name"] == "normbt" and saved["training"]["learning_rate"] == 1e-3
    load_reward_model(reference / "checkpoint", torch.float32)


def test_every_step_is_logged_with_mu_weights_and_quartile_shares(reference: Path) -> None:
    steps = steps_of(reference)
    assert [step["step"] for step in steps] == list(range(1, 21))
    for step in steps:
        shares = [step[f"weight_share_q{quarter}"] for quarter in (1, 2, 3, 4)]
        assert sum(shares) == pytest.approx(1, abs=3e-6) and shares == sorted(shares, reverse=True)
        assert step["distance_q10"] <= step["distance_q50"] <= step["distance_q90"]
        assert {"accuracy", "gradient_norm", "reward_margin", "learning_rate"} <= set(step)


def test_mu_follows_the_ema_of_the_batch_means(reference: Path) -> None:
    steps = steps_of(reference)
    mu = steps[0]["distance_mean"]  # μ_0 = μ̂_0 [inferred]
    for step in steps:
        assert step["mu"] == pytest.approx(mu, rel=1e-5)
        mu = 0.9 * mu + 0.1 * step["distance_mean"]
    saved = json.loads((reference / "checkpoint" / "reward_model.json").read_text())
    assert saved["mu"] == pytest.approx(mu, rel=1e-5)


def test_schedule_reaches_its_floor_at_the_last_step(reference: Path) -> None:
    rates = [step["learning_rate"] for step in steps_of(reference)]
    assert max(rates) == pytest.approx(1e-3, rel=0.05)
    assert rates[-1] < 0.02 * max(rates) and rates[1:] == sorted(rates[1:], reverse=True)


def test_accumulation_one_and_four_are_the_same_run(reference: Path, train_smoke: Train) -> None:
    assert_same_run(reference, train_smoke(*TWENTY), rtol=2e-4)


@pytest.mark.parametrize("share", ["false", "true"])
def test_micro_batches_by_tokens_are_the_same_run(
    reference: Path, train_smoke: Train, share: str
) -> None:
    words = ("training.micro_batch=8", "training.micro_batch_tokens=500")
    made = train_smoke(*TWENTY, *words, f"training.share_prefix={share}")
    assert_same_run(reference, made, rtol=2e-4)
    batches = json.loads((made / "manifest.json").read_text())["batches"]
    whole = json.loads((reference / "manifest.json").read_text())["batches"]
    assert batches["largest"] <= 500 < whole["largest"]
    assert batches["row_tokens"] == whole["row_tokens"]


def numbers_of_pairs(run_dir: Path, ranks: int) -> list[tuple[int, ...]]:
    """How many pairs each rank holds of every step of a finished run."""
    cfg = OmegaConf.load(run_dir / "config.yaml")
    assert isinstance(cfg, DictConfig)
    ready = prepare(cfg)
    asked = {name: cfg.training[name] for name in ("epochs", "global_batch")}
    order = training_order(ready.pairs, **asked, seed=cfg.seed)
    sizes = [len(batch) for batch in batches_of(ready.settings, ready.pairs, order, ranks)]
    parts = len(sizes) * cfg.training.global_batch // len(order)
    steps = [sizes[start : start + parts] for start in range(0, len(sizes), parts)]
    return [tuple(sum(step[rank::ranks]) for rank in range(ranks)) for step in steps]


@pytest.mark.slow
@pytest.mark.parametrize(("deepspeed", "share"), [("off", False), ("off", True), ("zero3", False)])
def test_micro_batches_by_tokens_on_two_ranks(
    reference: Path, train_smoke: Train, deepspeed: str, share: bool
) -> None:
    """With shared prefixes the ranks hold 5 and 3 pairs in some of the steps, else 4 and 4."""
    words = ("training.micro_batch=8", "training.micro_batch_tokens=500", "devices=2")
    words = (*words, f"training.share_prefix={str(share).lower()}")
    made = train_smoke(*TWENTY, *words, f"deepspeed={deepspeed}")
    assert_same_run(reference, made, rtol=2e-4)
    held = numbers_of_pairs(made, ranks=2)
    assert len(held) == 20 and all(sum(numbers) == 8 for numbers in held)
    assert held.count((5, 3)) == (11 if share else 0)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["off", "0", "2"])
def test_one_and_two_ranks_are_the_same_run(
    reference: Path, train_smoke: Train, stage: str
) -> None:
    words = ["deepspeed=off"]
    if stage != "off":
        words = ["deepspeed=zero2", f"deepspeed.settings.zero_optimization.stage={stage}"]
    assert_same_run(reference, train_smoke(*TWENTY, "devices=2", *words), rtol=2e-4)


@pytest.mark.slow
def test_two_ranks_with_zero2_have_the_gradients_of_one(train_smoke: Train) -> None:
    """By plain SGD, unclipped: AdamW would divide a wrong factor of the gradient out."""
    words = (TWENTY[0], TWENTY[2], "training.optimizer=sgd", "training.learning_rate=0.01")
    words = (*words, "training.clip_norm=0.0", "loss=bt")  # NormBT magnifies rounding under SGD
    one, two = train_smoke(*words), train_smoke(*words, "devices=2", "deepspeed=zero2")
    compared = [key for key in COMPARED if key != "mu"]  # BT has none
    assert_same_run(one, two, 2e-4, compared)
    twice = train_smoke(*words, "training.learning_rate=0.02")
    with pytest.raises(AssertionError):  # so that a factor would be seen
        assert_same_run(one, twice, 2e-4, compared)


@pytest.mark.slow
def test_zero3_trains_and_its_checkpoint_scores_equally(
    reference: Path, train_smoke: Train
) -> None:
    assert_same_run(reference, train_smoke(*TWENTY, "devices=2", "deepspeed=zero3"), rtol=2e-4)


@pytest.mark.parametrize(
    "words",
    [
        ("model=tiny-gemma", "training.part=top_layers", "training.top_layers=1"),
        (
            "training.part=lora",
            "+training.lora.r=4",
            "+training.lora.alpha=8",
            "+training.lora.dropout=0.0",
            "+training.lora.target_modules=[q_proj,v_proj]",
        ),
        ("loss=normbt_margin_out", "training.gradient_checkpointing=true"),
        ("loss=bt_label_smoothing", "training.compute_dtype=bfloat16"),
        ("loss=normbt_no_ema",),
    ],
)
def test_every_kind_of_training_runs_and_loads(train_smoke: Train, words: tuple[str, ...]) -> None:
    folder = train_smoke("data.train_pairs=16", *words)
    assert len(steps_of(folder)) == 2
    load_reward_model(folder / "checkpoint", torch.float32)


def test_frozen_trunk_gives_the_same_run(train_smoke: Train) -> None:
    words = ("data.train_pairs=160", "training.part=top_layers", "training.top_layers=1")
    plain = train_smoke(*words)
    assert_same_run(plain, train_smoke(*words, "training.reuse_trunk=true"), rtol=2e-4)


def test_shared_prefixes_give_the_same_run(reference: Path, train_smoke: Train) -> None:
    assert_same_run(reference, train_smoke(*TWENTY, "training.share_prefix=true"), rtol=2e-4)


@pytest.mark.slow
def test_shared_prefixes_on_two_ranks_with_zero3(reference: Path, train_smoke: Train) -> None:
    words = ("training.share_prefix=true", "devices=2", "deepspeed=zero3")
    assert_same_run(reference, train_smoke(*TWENTY, *words), rtol=2e-4)


def test_shared_prefixes_over_a_frozen_trunk(train_smoke: Train) -> None:
    words = ("data.train_pairs=160", "training.part=top_layers", "training.top_layers=1")
    plain = train_smoke(*words)
    shared = train_smoke(*words, "training.reuse_trunk=true", "training.share_prefix=true")
    assert_same_run(plain, shared, rtol=2e-4)


def test_a_backbone_that_cannot_share_is_an_error(
    train_smoke: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.settings.checks.can_share", lambda *_: "no sharing here")
    with pytest.raises(InputError, match=r"training\.share_prefix=true: no sharing here"):
        train_smoke("training.share_prefix=true")


@pytest.mark.usefixtures("uncompiled")
def test_flex_attention_gives_the_same_run(
    reference: Path, train_smoke: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.settings.checks.can_flex", lambda _: None)
    made = Counted(flex_plan)
    monkeypatch.setattr("rm.model.reward_model.flex_plan", made)
    words = ("training.share_prefix=true", "training.attention=flex_attention")
    assert_same_run(reference, train_smoke(*TWENTY, "training.micro_batch=8", *words), rtol=2e-4)
    assert made.calls >= 20


class Counted:
    """A function that counts its calls."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.calls = function, 0

    def __call__(self, *given: Any) -> Any:
        self.calls += 1
        return self.function(*given)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("training.attention=flash",), "training.attention=flash: leave it null, or choose flex"),
        (("training.attention=flex_attention",), "needs training.share_prefix=true"),
        (
            ("training.attention=flex_attention", "training.share_prefix=true"),
            "training.attention=flex_attention: no GPU; leave it null",
        ),
    ],
)
def test_an_attention_that_cannot_be_is_an_error(
    train_smoke: Train, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr("pipeline.settings.checks.can_flex", lambda _: "no GPU")
    with pytest.raises(InputError, match=re.escape(message)):
        train_smoke(*words)


def test_same_seed_same_run_and_other_seed_another(train_smoke: Train) -> None:
    one, same, other = (train_smoke("data.train_pairs=32", f"seed={seed}") for seed in (3, 3, 4))
    for name, value in weights_of(one).items():
        assert value.equal(weights_of(same)[name])
    assert steps_of(one)[0]["loss"] == steps_of(same)[0]["loss"] != steps_of(other)[0]["loss"]


def test_finished_run_is_not_repeated_but_completed(
    train_smoke: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train_smoke("data.train_pairs=16")
    before = (folder / "manifest.json").read_text()
    files = set((folder / "checkpoint").iterdir())
    (folder / "checkpoint/README.md").rename(folder / "checkpoint/.README.md.a1.unfinished")
    train_smoke("data.train_pairs=16", run_dir=folder)
    assert (folder / "manifest.json").read_text() == before
    assert set((folder / "checkpoint").iterdir()) == files  # the card that a kill left half
    assert "already trained" in capsys.readouterr().out


def test_a_setting_that_an_older_run_lacks_is_as_it_was() -> None:
    words = ["profile=smoke", "data=files", "data.train=x.jsonl"]
    cfg = compose_config("train", words)
    old = OmegaConf.create({**cfg, "data": {k: v for k, v in cfg.data.items() if k != "ignore"}})
    assert differences(comparable(cfg), comparable(old)) == []
    other = compose_config("train", [*words, "data.ignore=[tools]"])
    assert differences(comparable(other), comparable(old)) == ["data.ignore: ['tools'] ≠ None"]


def test_folder_of_another_configuration_is_refused(train_smoke: Train) -> None:
    folder = train_smoke("data.train_pairs=16")
    with pytest.raises(InputError, match=r"training\.learning_rate: 0\.5 ≠ 0\.001"):
        train_smoke("data.train_pairs=16", "training.learning_rate=0.5", run_dir=folder)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["training.global_batch=6"], "not a multiple of micro_batch × devices"),
        (["training.micro_batch_tokens=0"], "micro_batch_tokens=0: must be above zero"),
        (["training.micro_batch_tokens=900", "devices=3"], "global_batch=8 is not .* devices = 3"),
        (["training.reuse_trunk=true"], "needs training.part=top_layers"),
        (["training.part=half"], "choose full, lora or top_layers"),
        (
            ["training.part=top_layers", "training.reuse_trunk=true", "deepspeed=zero3"],
            "reuse_trunk=true does not work with ZeRO-3",
        ),
        (["loss=grm", "deepspeed=zero3"], "loss=grm needs the whole embedding: deepspeed=zero2"),
        (["training.compute_dtype=int8"], "choose one of float32"),
        (["training.learning_rate=-1"], "must be above zero"),
        (["training.learning_rate=fast"], "fast"),
        (["seed=abc"], "seed=abc: must be a whole number, 0 or more"),
        (["devices=two"], "devices=two: must be a whole number, 1 or more"),
        (["training.epochs=0.01"], "do not fill one global batch"),
        (["data.train_pairs=10000000"], "the pool has 320"),
        (["data=files", "data.train=nowhere.jsonl"], "nowhere.jsonl"),
        (["data=files"], "data.train"),
        (["loss=normbt", "loss.weight.beta=2"], r"weight\.beta=2: must be a number from 0 to 1"),
        (["loss=normbt", "loss.weight.beta=abc"], r"weight\.beta=abc: must be a number"),
        (["loss=normbt", "loss.weight.epsilon=-1"], r"weight\.epsilon=-1"),
        (["loss=normbt", "loss.weight.cap=0"], r"weight\.cap=0"),
        (["threads=0"], "threads=0: must be a whole number, 1 or more"),
        (["seed=12345678901234567890"], "seed=12345678901234567890: must be a whole number"),
        (["run_dir=''"], "run_dir is empty"),
        (["training.schedule=cosin"], "schedule=cosin: choose one of linear, cosine"),
        (["training.optimizer=adamw"], "optimizer=adamw: choose one of adamw_torch"),
        (["training.warmup_ratio=3"], "warmup_ratio=3.0: must be a number from 0 to 1"),
        (["training.warmup_ratio=-0.5"], "warmup_ratio=-0.5: must be a number from 0 to 1"),
        (["training.save_steps=-1"], "save_steps=-1: must be a number 0 or more"),
        (["training.epochs=inf"], "epochs=inf: must be above zero, and finite"),
        (["training.learning_rate=nan"], "learning_rate=nan: must be above zero, and finite"),
        (["training.warmup_ratio=nan"], "warmup_ratio=nan: must be a number from 0 to 1"),
        (
            ["loss=normbt", "loss.weight.epsilon=inf"],
            r"epsilon=inf: must be a number 0 or more, and finite",
        ),
        (["loss=bt_label_smoothing", "loss.pair_loss.smoothing=10"], r"smoothing=10: .* 0 to 0.5"),
        (["loss=hinge", "loss.pair_loss.width=-1"], r"loss\.pair_loss\.width=-1: must be"),
        (["loss=centring", "loss.regularizer.coefficient=abc"], "coefficient=abc: must be"),
        (["loss=grm", "loss.text.ratio=abc"], r"text\.ratio=abc: must be a number from 0 to 1"),
        (["loss=normbt_standardised", "+loss.distance.epsilon=abc"], "epsilon=abc: must be"),
        (["loss=normbt_category_mean", "++loss.deal.weights={a: 1}"], "loss=.* 'weights'"),
        (["loss=category_weights", "loss.deal.weights.Chat=-5"], r"weights\.Chat=-5: must be"),
        (["loss=category_weights", "loss.deal.weights.Chat=abc"], r"weights\.Chat=abc: must be"),
        (
            ["deepspeed=zero2", "deepspeed.settings.zero_optimization.stage=auto"],
            "zero_optimization: stage auto: choose 0, 1, 2, 3",
        ),
        (["deepspeed=zero2", "deepspeed.settings.zero_optimization=null"], "stage None: choose"),
        (
            [
                *("training.part=top_layers", "training.reuse_trunk=true", "deepspeed=zero2"),
                "deepspeed.settings.zero_optimization.stage=3",
            ],
            "reuse_trunk=true does not work with ZeRO-3",
        ),
        (["training.compute_dtype=float64"], "compute_dtype: choose one of float32, bfloat16"),
        (["training.part=lora"], "needs exactly alpha, dropout, r, target_modules"),
        ([*LORA, "+training.lora.target_modules=[nowhere]"], "nowhere"),
        (["training.optimizer=adamw_bnb_8bit"], "optimizer=adamw_bnb_8bit: choose one of"),
        (["training.schedule=polynomial", "training.learning_rate=1e-8"], "must be above 1e-07"),
        (["training.max_length=4096"], "max_length=4096: the backbone has 2048 positions"),
        (["data.seed=null"], "seed: .*None"),
        (["data.train_pairs=abc"], "train_pairs: .*Integer"),
        (["data.label_noise=abc"], "label_noise: .*Float"),
        (["data=files", "data.train=[a,b]"], "train: .*string"),
        (["data=files", "data.train=a", "data.limit=true"], "limit: .*Integer"),
        (["deepspeed.settings=abc"], "settings=abc: give DeepSpeed's settings"),
        (["loss.name=null"], "loss.name=None: give a text"),
        (["cache_dir=null"], "cache_dir=None: give a text"),
        (["tracking.histogram_steps=abc"], "histogram_steps=abc: must be a whole number"),
        *(
            ([*LORA, "+training.lora.target_modules=[q_proj]", f"training.lora.{word}"], message)
            for word, message in (
                ("r=0", "r=0: must be a whole number"),
                ("r=8.0", "r=8.0: must be a whole number"),
                ("alpha=abc", "alpha=abc: must be a number above zero"),
                ("dropout=1", "dropout=1: must be a fraction"),
                ("target_modules=all-linear", "target_modules=all-linear: must be a list"),
                ("target_modules=[5]", r"target_modules=\[5\]: must be a list of module names"),
                ("target_modules=[q_proj,embed_tokens]", "embed_tokens is not a linear layer"),
                ("target_modules=[q_proj,nope]", "has no nope; its linear modules are down_proj"),
            )
        ),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(
    train_smoke: Train, words: list[str], message: str
) -> None:
    with pytest.raises(Exception, match=message) as caught:
        train_smoke(*words)
    assert type(caught.value).__name__ in ("InputError", "MissingMandatoryValue")


def test_a_start_that_failed_does_not_claim_the_folder(train_smoke: Train, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        train_smoke("data=files", "data.train=nowhere.jsonl", run_dir=tmp_path / "run")
    train_smoke("data.train_pairs=16", run_dir=tmp_path / "run")


def test_a_backbone_of_ones_own_is_named_by_its_folder_and_noticed_when_it_changes(
    train_smoke: Train, backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    mine = Path(shutil.copytree(backbone_folders["llama"], tmp_path / "my-model"))
    with pytest.raises(InputError, match=r"not a copy of smollm2-135m-instruct .*give model=local"):
        train_smoke("model=smollm2-135m-instruct", f"model.path={mine}")
    for broken in ('{"a', "[1]"):
        other = Path(shutil.copytree(mine, tmp_path / "broken", dirs_exist_ok=True))
        (other / "config.json").write_text(broken)
        with pytest.raises(InputError, match="is not a model configuration: fetch the model again"):
            train_smoke("model=smollm2-135m-instruct", f"model.path={other}")
    words = ["model=local", f"model.path={mine}", "data.train_pairs=16"]
    run = train_smoke(*words, run_dir=tmp_path / "run")
    card = (run / "checkpoint" / "README.md").read_text()
    assert "on my-model" in card and "licence: yours" in card and "SmolLM2" not in card
    train_smoke(*words, run_dir=tmp_path / "run")
    weights = load_file(mine / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, mine / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"other settings \(backbone fingerprint: "):
        train_smoke(*words, run_dir=tmp_path / "run")


def test_the_date_of_the_template_is_in_the_manifest_and_in_the_checkpoint(
    train_smoke: Train, backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    mine = Path(shutil.copytree(backbone_folders["llama"], tmp_path / "dated"))
    template = mine / "chat_template.jinja"
    template.write_text("{{ strftime_now('%d %b %Y') }}" + template.read_text())
    run = train_smoke("model=local", f"model.path={mine}", "data.train_pairs=16")
    assert json.loads((run / "manifest.json").read_text())["template_date"] == "2024-07-26"
    stock = AutoTokenizer.from_pretrained(run / "checkpoint")
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert stock.apply_chat_template(turns, tokenize=False).startswith("26 Jul 2024")
    assert "macro" not in template.read_text()


def test_a_folder_of_other_files_is_left_alone(train_smoke: Train, tmp_path: Path) -> None:
    mine = tmp_path / "trainer" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(InputError, match="contains trainer but no config"):
        train_smoke("data.train_pairs=16", run_dir=tmp_path)
    assert mine.read_text() == "mine"


def test_what_became_of_the_rows_is_said_before_training(
    train_smoke: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = [{"prompt": f"{i}?", "chosen": "Yes.", "rejected": "No."} for i in range(12)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*good, {"prompt": "x"}, good[0]]))
    train_smoke("data=files", f"data.train={path}", "training.max_length=64")
    said = capsys.readouterr().out
    assert "14 rows" in said and "1 dropped" in said and "held out" in said and "pairs," in said


def test_loss_with_margins_refuses_pairs_without(train_smoke: Train, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Question {i}?", "chosen": "Yes.", "rejected": "No.", "margin": margin}
        for i, margin in enumerate([1.0] * 20 + [None])
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["data=files", f"data.train={path}", "data.validation_share=0.0"]
    with pytest.raises(InputError, match="1 of 21 have none"):
        train_smoke("loss=bt_margin", *words)
    train_smoke("loss=bt", *words)


@pytest.mark.parametrize("share", ["true", "false"])
def test_weights_of_mean_one_have_it_under_dropout_too(train_smoke: Train, share: str) -> None:
    """What μ is measured on is what is weighed: dropout falls on the same places."""
    words = [*LORA, "+training.lora.target_modules=[q_proj,v_proj]", "training.lora.dropout=0.3"]
    words += [
        "training.learning_rate=0.05",
        "data.train_pairs=40",
        f"training.share_prefix={share}",
    ]
    steps = steps_of(train_smoke(*words, "loss=normbt_mean_one", "training.micro_batch=4"))
    assert [step["weight_mean"] for step in steps] == pytest.approx([1] * 5, rel=1e-5)


@pytest.mark.slow
def test_deepspeed_on_one_device_is_the_same_run(reference: Path, train_smoke: Train) -> None:
    assert_same_run(reference, train_smoke(*TWENTY, "devices=1", "deepspeed=zero2"), rtol=2e-4)


def test_settings_reach_transformers(tmp_path: Path) -> None:
    words = ["weight_decay=0.03", "clip_norm=0.7", "learning_rate=0.02", "schedule=linear"]
    words += ["warmup_ratio=0.25", "optimizer=adamw_torch", "save_steps=7"]
    cfg = compose_config("train", ["profile=smoke", *(f"training.{word}" for word in words)])
    made = training_arguments(
        check(cfg), run_dir=tmp_path, accumulation=4, steps=20, seed=3, report_to=[], run_name="a",
        deepspeed=None,
    )  # fmt: skip
    assert (made.weight_decay, made.max_grad_norm, made.learning_rate) == (0.03, 0.7, 0.02)
    assert (made.lr_scheduler_type, made.warmup_steps, made.optim) == ("linear", 5, "adamw_torch")
    assert (made.gradient_accumulation_steps, made.save_steps, made.seed) == (4, 7, 3)


def test_a_process_takes_one_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Else transformers hands micro-batches to all GPUs that it sees, as DataParallel."""
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda _: 8))
    cfg = compose_config("train", ["profile=smoke"])
    made = training_arguments(
        check(cfg), run_dir=tmp_path, accumulation=1, steps=1, seed=0, report_to=[], run_name="a",
        deepspeed=None,
    )  # fmt: skip
    assert made._n_gpu == 1


def test_a_loss_over_whole_batches_refuses_accumulation(train_smoke: Train) -> None:
    with pytest.raises(InputError, match=r"loss=bsr needs .*micro_batch=8 .* devices=1"):
        train_smoke("loss=bsr", "training.micro_batch=4")
    with pytest.raises(InputError, match=r"micro_batch_tokens=null devices=1"):
        train_smoke("loss=bsr", "training.micro_batch=8", "training.micro_batch_tokens=900")


def test_forms_rivals_and_controls_train_on_the_same_batches(train_smoke: Train) -> None:
    """Every one differs from BT in its update, none in data order, head or first rewards."""
    words = ("data.train_pairs=16", "training.micro_batch=8")
    plain = steps_of(train_smoke(*words, "loss=bt"))
    margins = ("constant_margin", "similarity_margin")
    others = ("hinge", "focal", "normalised_difference", *margins, "centring", "bsr", "clip")
    for loss in (*others, "proportional", "normbt_mean_one"):
        found = steps_of(train_smoke(*words, f"loss={loss}"))
        for key in ("distance_mean", "reward_margin", "accuracy"):
            assert found[0][key] == plain[0][key]
        assert found[-1]["reward_margin"] != plain[-1]["reward_margin"]


@pytest.mark.parametrize("control", ["shuffled_within", "category_mean"])
def test_weights_dealt_within_categories_keep_what_each_category_counts(
    train_smoke: Train, control: str
) -> None:
    words = ("data.train_pairs=16", "training.micro_batch=8")
    normbt = steps_of(train_smoke(*words, "loss=normbt"))
    found = steps_of(train_smoke(*words, f"loss=normbt_{control}"))
    assert found[0]["weight_mean"] == pytest.approx(normbt[0]["weight_mean"], rel=1e-6)
    assert by_category(found[0]) == pytest.approx(by_category(normbt[0]), rel=1e-6)
    assert found[0]["mu"] == normbt[0]["mu"]
    assert found[0]["weight_share_q1"] != pytest.approx(normbt[0]["weight_share_q1"], rel=1e-3)
    assert found[-1]["reward_margin"] != normbt[-1]["reward_margin"]


def test_the_mean_weight_of_every_category_is_recorded_where_they_are_few(
    train_smoke: Train, tmp_path: Path
) -> None:
    weights = "{Chat: 0.5, Chat Hard: 2.0, Safety: 1.0, Reasoning: 4.0}"
    words = ["data.train_pairs=32", "loss=category_weights", f"loss.deal.weights={weights}"]
    found: dict[str, float] = {}
    for step in steps_of(train_smoke(*words)):
        found |= by_category(step)
    keys = ("chat", "chat_hard", "safety", "reasoning")
    expected = {
        f"weight_mean_{key}": value for key, value in zip(keys, (0.5, 2, 1, 4), strict=True)
    }
    assert found == pytest.approx(expected, rel=1e-6)
    rows = [
        {"prompt": f"Question {i}?", "chosen": "Yes.", "rejected": "No.", "category": f"kind {i}"}
        for i in range(CATEGORIES + 1)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["data=files", f"data.train={path}", "data.validation_share=0.0", "loss=normbt"]
    assert not any(by_category(step) for step in steps_of(train_smoke(*words)))


def test_a_category_without_a_weight_is_refused_before_training(
    train_smoke: Train, tmp_path: Path
) -> None:
    row = {"prompt": "Question?", "chosen": "Yes.", "rejected": "No.", "category": "Maths"}
    path = tmp_path / "pairs.jsonl"
    path.write_text((json.dumps(row) + "\n") * 16)
    words = ["data=files", f"data.train={path}", "data.validation_share=0.0"]
    with pytest.raises(
        InputError, match=r"has no weight for the category 'Maths' .*Maths: 1.0"
    ) as said:
        train_smoke("loss=category_weights", *words)
    advice = str(said.value).rpartition("category, ")[2].strip("'")
    train_smoke("loss=category_weights", advice, *words)


def test_weights_by_category_refuse_pairs_without(train_smoke: Train, tmp_path: Path) -> None:
    rows = [{"prompt": f"Question {i}?", "chosen": "Yes.", "rejected": "No."} for i in range(20)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["data=files", f"data.train={path}", "data.validation_share=0.0"]
    with pytest.raises(InputError, match="needs a category for every pair: 20 of 20 have none"):
        train_smoke("loss=normbt_category_mean", "training.micro_batch=8", *words)


def test_weights_that_go_by_the_batch_itself_are_divided_as_one(train_smoke: Train) -> None:
    words = ("data.train_pairs=24", "loss=normbt_mean_one")
    whole = train_smoke(*words, "training.micro_batch=8")
    parts = train_smoke(*words, "training.micro_batch=2")
    for one, other in zip(steps_of(whole), steps_of(parts), strict=True):
        assert one["weight_mean"] == pytest.approx(1, rel=1e-5)
        assert one["mu"] == pytest.approx(other["mu"], rel=1e-4)  # AdamW magnifies rounding
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
    means = [step["mu"] for step in steps_of(whole)]
    assert len(set(means)) == len(means)


@pytest.mark.parametrize(
    ("distance", "own"),
    [
        ("cosine", ()),
        ("standardised", ()),
        ("mean_pooled", ()),
        ("exact", ()),
        ("edit", ()),
        ("random", ()),
        ("exact", ("training.share_prefix=true",)),
        ("edit", ("training.part=top_layers", "training.top_layers=1")),
    ],
)
def test_other_distances_weigh_but_the_records_keep_the_l2_distance(
    train_smoke: Train, distance: str, own: tuple[str, ...]
) -> None:
    words = ("data.train_pairs=16", *own)
    found = steps_of(train_smoke(*words, f"loss=normbt_{distance}"))
    plain = steps_of(train_smoke(*words, "loss=normbt"))
    assert found[0]["distance_mean"] == plain[0]["distance_mean"] == plain[0]["mu"]
    assert found[0]["mu"] != plain[0]["mu"] and found[0]["loss"] != plain[0]["loss"]
    assert found[0]["pair_loss"] == plain[0]["pair_loss"]


def test_distances_that_read_every_token_refuse_shared_prefixes(train_smoke: Train) -> None:
    with pytest.raises(InputError, match=r"normbt_mean_pooled needs .*share_prefix=false"):
        train_smoke("loss=normbt_mean_pooled", "training.share_prefix=true")


@pytest.mark.parametrize("own", [(), ("training.part=top_layers", "training.top_layers=1")])
def test_text_generation_is_added_to_the_pair_loss(
    train_smoke: Train, own: tuple[str, ...]
) -> None:
    words = ("data.train_pairs=16", "model=tiny-gemma", *own)
    plain = steps_of(train_smoke(*words, "loss=bt"))[0]
    found = steps_of(train_smoke(*words, "loss=grm"))[0]
    none = steps_of(train_smoke(*words, "loss=grm", "loss.text.ratio=0.0"))[0]
    assert found["pair_loss"] == none["pair_loss"] == plain["pair_loss"]
    assert none["loss"] == pytest.approx(plain["loss"], rel=1e-6)
    assert found["loss"] > plain["loss"]  # log σ(β log π) is far from 0 for a random backbone
    with pytest.raises(InputError, match=r"grm needs every token: training.share_prefix=false"):
        train_smoke(*words, "loss=grm", "training.share_prefix=true")
    with pytest.raises(InputError, match="tie_word_embeddings"):
        train_smoke("data.train_pairs=16", "model=tiny-llama", "loss=grm")


def test_not_finite_gradient_stops_the_run_before_it_is_saved(
    train_smoke: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Finite value, NaN gradient: the root's slope at zero.
    monkeypatch.setattr("rm.objective.losses.logsigmoid", lambda x: x + (0 * x).sqrt())
    with pytest.raises(FloatingPointError, match="step 1: the gradient is not finite; no check"):
        train_smoke("data.train_pairs=16", "loss=bt", "training.save_steps=1")


def test_real_pairs_of_both_schemas(train_smoke: Train, shared_data: Path) -> None:
    for name, loss in (("unified_feedback", "normbt_margin"), ("skywork", "normbt")):
        path = shared_data / f"{name}_schema_train.jsonl.gz"
        folder = train_smoke(
            "data=files",
            f"data.train={path}",
            "data.limit=24",
            "data.validation_share=0.25",
            f"loss={loss}",
        )
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["steps"] == 2
        split = json.loads((folder / "split.json").read_text())
        assert len(split["train"]) + len(split["validation"]) <= 24
        assert split["validation"] and not set(split["train"]) & set(split["validation"])
        dropped = manifest["data"]["train"]["dropped"]
        assert dropped.get("tie", 0) == (209 if name == "unified_feedback" else 0)


def test_train_needs_a_config_it_can_compose() -> None:
    with pytest.raises(InputError, match="bt_margin_out"):
        train(compose_config("train", ["loss=nonsense"]))


def test_runs_of_one_pool_share_the_frozen_layers_output(
    train_smoke: Train, tmp_path: Path
) -> None:
    """Two draws of a pool read one file, and train as with a file of their own."""
    words = ["data=generated_v2", "data.pool_pairs=48", "data.train_pairs=16", "loss=bt"]
    words += ["data.validation_pairs=16", "training.part=top_layers", "training.top_layers=1"]
    words += ["training.reuse_trunk=true", f"cache_dir={tmp_path}/cache"]
    folder = tmp_path / "cache/trunk"
    pool = [train_smoke(*words, "training.trunk_pool=true", f"seed={seed}") for seed in (0, 1)]
    assert len([*folder.glob("*.bin")]) == 1
    own = train_smoke(*words, "seed=1")
    assert len([*folder.glob("*.bin")]) == 2
    losses = [
        [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (pool[1], own)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"Q{n}?", "chosen": "Yes.", "rejected": "No."} for n in range(24)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = ["data=files", f"data.train='{path}'", "loss=bt"]
    with pytest.raises(InputError, match="trunk_pool=true needs data that are drawn from a pool"):
        train_smoke(*files, *words[5:], "training.trunk_pool=true")
