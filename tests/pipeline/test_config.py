"""Every choice composes, and what cannot be is refused by name with exit status 2."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from tqdm import tqdm

from pipeline.settings.checks import check
from pipeline.settings.configuration import CONF, check_types, compose_config, typed
from pipeline.settings.help import command_help
from pipeline.settings.objective import objective_of
from rm.errors import InputError
from rm.model.backbones import BackboneSettings
from rm.training.settings import TrainingSettings


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("[!_]*.yaml"))


@pytest.mark.parametrize("loss", choices("loss"))
def test_every_loss_composes_to_working_functions(loss: str) -> None:
    cfg = compose_config("train", [f"loss={loss}"])
    assert cfg.loss.name == loss
    objective = objective_of(cfg.loss)
    value = objective.pair_loss(torch.tensor([0.5, -1.0]), torch.ones(2))
    error = torch.tensor([0.5, 0.5])
    weight = objective.weight.weigh(torch.tensor([1.0, 4.0]), 2.0, error)
    assert value.shape == weight.shape == (2,)
    favours_close = weight[0] > weight[1]
    if loss not in ("normbt_shuffled", "normbt_mean_for_all"):
        assert favours_close == (loss.startswith("normbt") or loss == "clip")
    assert (weight[0] < weight[1]) == (loss == "proportional") or loss == "normbt_shuffled"


def test_the_papers_constants_are_in_one_place() -> None:
    for loss in choices("loss"):
        weight = compose_config("train", [f"loss={loss}"]).loss.weight
        if "beta" in weight:
            assert weight.beta == 0.9
    assert compose_config("train", ["loss=bt_label_smoothing"]).loss.pair_loss.smoothing == 0.1


@pytest.mark.parametrize("training", [name for name in choices("training") if name != "base"])
def test_every_training_setting_is_typed_and_complete(training: str) -> None:
    settings = check(compose_config("train", [f"training={training}"]))
    assert isinstance(settings, TrainingSettings)
    optional = {"micro_batch_tokens", "attention"}
    needed = [field.name for field in fields(settings) if field.name not in optional]
    assert all(getattr(settings, name) is not None for name in needed)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_cpu_profile_computes_in_what_the_machine_does_fast(
    monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    monkeypatch.setattr("rm.model.precision.fast_dtype", lambda: dtype)
    assert compose_config("train", ["profile=cpu"]).training.compute_dtype == dtype
    for profile in ("cpu", "paper", "smoke"):
        words = [f"profile={profile}", "training.compute_dtype=bfloat16"]
        assert compose_config("train", words).training.compute_dtype == "bfloat16"
    assert compose_config("train", ["profile=paper"]).training.compute_dtype == "bfloat16"


@pytest.mark.parametrize("entry", ["reproduce", "sweep", "plan"])
@pytest.mark.parametrize("matrix", choices("matrix"))
def test_what_a_matrix_names_is_what_is_run(entry: str, matrix: str) -> None:
    """Methods, seeds, grid and dropped checkpoints: nothing after it says otherwise."""
    named = yaml.safe_load((CONF / f"matrix/{matrix}.yaml").read_text())
    cfg = compose_config(entry, ["profile=cpu", f"matrix={matrix}"])
    own = {key: value for key, value in named.items() if key != "defaults"}
    assert {key: OmegaConf.to_object(cfg)[key] for key in own} == own  # type: ignore[index]


@pytest.mark.parametrize(
    ("entry", "word", "message"),
    [
        ("tune", "+title=5", "title=5: give a text"),
        ("reproduce", "runs_dir=''", "runs_dir is empty: give a text"),
        ("reproduce", "threads=abc", "threads=abc: must be a whole number, 1 or more"),
        ("evaluate", "threads=0", "threads=0: must be a whole number"),
        ("evaluate", "checkpoint=null", "checkpoint=None: give a text"),
        ("evaluate", "benchmark_data=[a]", r"data=\['a'\]: give a text"),
        ("push", "repo=5", "repo=5: give a text"),
        ("push", "dry_run=0", "dry_run=0: give true or false$"),
        ("reproduce", "best_of_n=no", "best_of_n=no: give true or false or null"),
        ("train", "seed=1.5", "seed=1.5: must be a whole number"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(entry: str, word: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_types(compose_config(entry, [word]))


@pytest.mark.parametrize("entry", ["train", "reproduce", "evaluate", "compare", "push", "plan"])
def test_the_configuration_as_it_is_has_the_right_types(entry: str) -> None:
    check_types(compose_config(entry))


@pytest.mark.parametrize("model", choices("model"))
def test_every_model_is_typed_and_names_its_licence(model: str) -> None:
    own = ["model.path=/models/local"] if model == "local" else []  # it is called by its folder
    settings = typed(BackboneSettings, compose_config("train", [f"model={model}", *own]).model)
    assert settings.name == model and settings.license


@pytest.mark.parametrize("profile", choices("profile"))
@pytest.mark.parametrize("deepspeed", choices("deepspeed"))
def test_profiles_and_deepspeed_compose(profile: str, deepspeed: str) -> None:
    cfg = compose_config("train", [f"profile={profile}", f"deepspeed={deepspeed}"])
    assert cfg.profile.name == profile and cfg.deepspeed.name == deepspeed


def test_paper_profile_has_the_protocols_numbers() -> None:
    cfg = compose_config("train", ["profile=paper"])
    assert cfg.model.hub == "google/gemma-2b-it"
    assert (cfg.training.lora.r, cfg.training.lora.alpha, cfg.training.lora.dropout) == (
        32,
        64,
        0.05,
    )
    assert (cfg.training.learning_rate, cfg.training.epochs, cfg.training.max_length) == (
        1e-5,
        2,
        1024,
    )


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_experiment_composes(path: Path) -> None:
    cfg = compose_config("train", ["profile=paper", f"experiment={path.stem}"])
    cells = re.fullmatch("(gemma|llama)_(unified_feedback|skywork_80k)", path.stem)
    if cells:  # one of the paper's Table 1
        assert cfg.model.name.startswith(cells[1]) and cfg.data.name == cells[2]
    else:
        assert cfg != compose_config("train", ["profile=paper"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["loss=nonsense"], "there is no loss/nonsense; valid: bsr, bt, bt_label_smoothing"),
        (["training.learning_rat=1"], r"did you mean learning_rate\?"),
        (["trainig=cpu"], "trainig"),
        (["sed=1"], r"unknown key sed \(did you mean seed\?\); valid: cache_dir"),
        (["seed=1=2"], "seed=1=2|mismatched|LexerNoViableAlt|extraneous"),
    ],
)
def test_wrong_choices_are_refused_by_name(words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        compose_config("train", words)


def test_wrong_type_names_the_value_and_the_keys() -> None:
    cfg = compose_config("train", ["training.epochs=many"])
    with pytest.raises(InputError, match=r"many.*valid keys: part, learning_rate"):
        check(cfg)


@pytest.mark.parametrize(
    "words",
    [
        ("train", "loss=nonsense"),
        ("train", "profile=smoke", "training.global_batch=7"),
        ("evaluate", "checkpoint=/nowhere", "output=/tmp/none", "data=/nowhere.jsonl"),
        ("evaluate", "output=/tmp/none"),
        ("reproduce", "profile=smoke", "sedes=[1]"),
    ],
)
def test_user_errors_exit_with_two_and_one_line(
    words: tuple[str, ...],
    tmp_path: Path,
    run: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    module, *rest = words
    if module == "train":
        rest.append(f"run_dir={tmp_path}")
    assert run(module, *rest) == 2
    errors = capsys.readouterr().err
    assert errors.strip().splitlines()[-1].startswith("error: ") and "Traceback" not in errors
    assert "Error executing job" not in errors


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [(InputError("why"), 2, "error: why\n"), (KeyboardInterrupt(), 1, "")],
)
def test_what_ends_a_progress_bar_is_a_line_of_its_own(
    run: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
    said: str,
) -> None:
    def work(_: object) -> None:
        bar = tqdm(total=3, desc="step")  # kept by the traceback
        bar.update()
        raise error

    monkeypatch.setattr("pipeline.run.training.train", work)
    assert run("train", "profile=smoke", "run_dir=x") == status
    bar, end, after = capsys.readouterr().err.rpartition("\n" + said if said else "\n")
    assert "step:" in bar and end.endswith("\n") and after == ""


def test_debug_shows_the_traceback(
    tmp_path: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("profile=smoke", "training.global_batch=7", f"run_dir={tmp_path}", "debug=true")
    assert run("train", *words) == 2
    assert "Traceback" in capsys.readouterr().err


def test_the_command_itself_exits_with_two() -> None:
    command = [sys.executable, "-m", "scripts.train", "loss=nonsense"]
    result = subprocess.run(command, cwd=CONF.parent, capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.count("\n") == 1


def test_a_sweep_names_the_job_that_failed(
    tmp_path: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("-m", "profile=smoke", "seed=1,-1", "model.path=/nowhere", f"run_dir={tmp_path}")
    assert run("train", *words, f"hydra.sweep.dir={tmp_path}/sweep") == 2
    first, *_, last = capsys.readouterr().err.strip().splitlines()
    assert "'seed=1'" in first and last.startswith("error: model.path=/nowhere")


def test_a_sweep_runs_every_combination(
    tmp_path: Path, cache: Path, run: Callable[..., int]
) -> None:
    folder = "'" + str(tmp_path) + "/${loss.name}-${seed}'"
    words = ["profile=smoke", "data.train_pairs=16", f"cache_dir={cache}", f"run_dir={folder}"]
    assert run("train", "-m", "loss=bt,normbt", "seed=0,1", *words) == 0
    done = sorted(path.parent.name for path in tmp_path.glob("*/manifest.json"))
    assert done == ["bt-0", "bt-1", "normbt-0", "normbt-1"]


@pytest.mark.parametrize(
    "entry", [path.stem for path in CONF.glob("*.yaml") if path.stem != "claims"]
)
def test_help_shows_docstring_keys_with_comments_and_groups(
    entry: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = command_help(entry, f"Do it: python -m scripts.{entry}.")
    assert text.startswith(f"Do it: python -m scripts.{entry}.\n\nKeys of conf/")
    cfg = compose_config(entry)
    groups = re.findall(r"^  (\w+) +[\w-]", text.split("Groups (")[-1], re.MULTILINE)
    for key in map(str, cfg):
        assert re.search(rf"^  {key}:", text, re.MULTILINE) or key in groups, key
    assert not re.search(r"defaults|hydra", text)
    command = importlib.import_module(f"scripts.{entry}")
    monkeypatch.setattr(sys, "argv", [entry, "--help"])
    command.main()
    assert capsys.readouterr().out.startswith(str(command.__doc__).splitlines()[0])


def test_help_marks_the_defaults_of_the_command_itself() -> None:
    text = command_help("reproduce", "")
    assert "# which methods and seeds" not in text
    assert "  threads: null          # CPU threads" in text
    assert re.search(r"^  matrix +confirmatory forms main pair\*", text, re.MULTILINE)
    assert re.search(r"^  tracking +off tensorboard wandb\*", text, re.MULTILINE)
    assert re.search(r"^  tracking +off\* tensorboard", command_help("evaluate", ""), re.MULTILINE)


HEAVY = {"torch", "transformers", "datasets", "wandb", "scipy", "pandas", "matplotlib"}
STARTS = """
import importlib, sys
from pathlib import Path
from pipeline.settings.configuration import compose_config
compose_config("train", ["loss=bt"])
for path in Path("scripts").glob("[!_]*.py"):
    importlib.import_module(f"scripts.{path.stem}")
print(*sorted(sys.modules))
"""


def test_composing_a_configuration_and_help_load_no_torch() -> None:
    """What is loaded before a command line is read: the user waits for it at every misspelt key."""
    words = [sys.executable, "-c", STARTS]
    done = subprocess.run(words, cwd=CONF.parent, capture_output=True, text=True, check=True)
    assert "scripts.train" in done.stdout.split()
    assert not HEAVY & set(done.stdout.split())
