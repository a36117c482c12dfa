"""`scripts.reproduce profile=smoke`, from nothing and again with nothing to do."""

from __future__ import annotations

import gzip
import html
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml
from omegaconf import DictConfig

from analysis import style
from analysis.gallery import read_index, read_manifest
from analysis.tables import TEXTS
from eval.benchmarks import BENCHMARKS
from pipeline.experiments import closing, matrix
from pipeline.experiments import reproduce as pipeline
from pipeline.experiments.archive import pack, unpack
from pipeline.experiments.measure import Run
from pipeline.launch.terminal import Screen
from pipeline.settings.configuration import CONF, compose_config
from pipeline.settings.data import load_data
from rm.errors import InputError

pytestmark = pytest.mark.slow

REPOSITORY = CONF.parent


def reproduce(folder: Path, cache: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.reproduce", "profile=smoke"]
    command += [f"cache_dir={cache}", f"runs_dir={folder}/runs", f"results_dir={folder}/results"]
    return subprocess.run([*command, *words], cwd=REPOSITORY, capture_output=True, text=True)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    folder = tmp_path_factory.mktemp("reproduce")
    result = reproduce(folder, cache)
    assert result.returncode == 0, result.stderr
    assert "NormBT" in result.stdout and f"report: {folder}/results/report.html" in result.stdout
    return folder


def test_every_promised_file_is_there(done: Path) -> None:
    results = done / "results"
    for name in ("tables/table1.csv", "tables/table1.md", "tables/table1.tex", "manifest.json"):
        assert (results / name).stat().st_size > 0
    for number in (2, 4):
        for kind in ("png", "svg"):
            assert (results / f"figures/figure{number}.{kind}").stat().st_size > 5000


def test_table_is_the_mean_of_the_runs_summaries(done: Path) -> None:
    table = pd.read_csv(done / "results/tables/table1.csv").set_index("method")
    assert [*table.index[2:]] == ["n-grams (baseline)", "length (baseline)"]
    table = table[:2]
    assert list(table.index) == ["bt", "normbt"] and (table["seeds"] == 3).all()
    for method in table.index:
        summaries = [
            json.loads(path.read_text())
            for path in (done / "runs/train").glob(f"{method}-seed*/evaluation/summary.json")
        ]
        assert len(summaries) == 3
        for column, key in (("chat_hard", "Chat Hard"), ("reasoning", "Reasoning")):
            mean = 100 * sum(s["sections"][key] for s in summaries) / 3
            assert table.loc[method, column] == pytest.approx(mean, abs=1e-3)
            low, high = table.loc[method, f"{column}_low"], table.loc[method, f"{column}_high"]
            assert low - 1e-3 <= mean <= high + 1e-3
        average = 100 * sum(s["average"] for s in summaries) / 3
        assert table.loc[method, "average"] == pytest.approx(average, abs=1e-3)


def test_manifest_names_every_run_with_its_data_and_code(done: Path) -> None:
    manifest = json.loads((done / "results/manifest.json").read_text())
    assert [(run["method"], run["seed"]) for run in manifest["runs"]] == [
        (method, seed) for seed in (0, 1, 2) for method in ("bt", "normbt")
    ]
    drawn = {(run["seed"], run["data_fingerprint"]) for run in manifest["runs"]}
    assert len(drawn) == len({data for _, data in drawn}) == 3  # every seed draws its own pairs
    assert {"packages", "code", "cpus"} <= set(manifest["environment"])
    assert manifest["command"].startswith("python -m scripts.reproduce profile=smoke")
    assert manifest["command"] in html.unescape((done / "results/report.html").read_text())
    assert str(done) not in json.dumps(manifest)


def test_the_command_that_others_see_has_files_by_name_and_none_of_our_folders() -> None:
    words = ["profile=cpu", "methods=[bt,normbt]", "runs_dir=runs/x", "cache_dir='/home/me/cache'"]
    words += ["data.train='/home/me/my pairs.jsonl'", "model.path=/home/me/gemma", "eval=default"]
    words += ["benchmark_data=a/b.jsonl", "model.name=me/gemma", "results_dir='/home/me/own'"]
    assert shlex.split(matrix.command("scripts.reproduce", words)) == [
        *("python", "-m", "scripts.reproduce", "profile=cpu", "methods=[bt,normbt]"),
        "runs_dir=runs/x",
        *("data.train='my pairs.jsonl'", "model.path=gemma", "eval=default"),
        *("benchmark_data=a/b.jsonl", "model.name=me/gemma", "results_dir=results/own"),
    ]
    assert matrix.command("scripts.reproduce", []) == "python -m scripts.reproduce"


def test_others_see_files_by_name_and_no_folders() -> None:
    config = {"seed": 1, "run_dir": "/home/me/run", "cache_dir": "/home/me/cache"}
    data = {"train": "/home/me/pairs.jsonl", "validation": None, "limit": 3}
    seen = matrix.for_others({**config, "data": data, "model": {"path": "/home/me/gemma"}})
    data = {"train": "pairs.jsonl", "validation": None, "limit": 3}
    assert seen == {"seed": 1, "data": data, "model": {"path": "gemma"}}


@pytest.mark.parametrize(
    ("gpus", "launch", "ranks"),
    [(0, "local", 3), (2, "local", 2), (8, "local", 4), (8, "gpu_group", 1)],
)
def test_runs_are_scored_on_the_devices_that_they_were_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: int, launch: str, ranks: int
) -> None:
    asked = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpus > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2})
    monkeypatch.setattr(matrix, "evaluate", asked.append)
    cfg = compose_config("reproduce", ["profile=smoke", "devices=4", f"launch={launch}"])
    matrix.evaluate_run(cfg, Run("bt", 0, tmp_path), "test.jsonl")
    assert [one.devices for one in asked] == [ranks]


@pytest.mark.parametrize("command", ["reproduce", "sweep"])
def test_no_key_of_a_whole_pipeline_reaches_a_single_run(command: str) -> None:
    words = ["profile=smoke", *(["sweep=beta"] if command == "sweep" else [])]
    own = set(compose_config(command, words)) - set(compose_config("train", ["profile=smoke"]))
    groups = yaml.safe_load((CONF / "reproduce.yaml").read_text())["defaults"]
    own |= {name for entry in groups if isinstance(entry, dict) for name in entry}
    assert {"gold", "scored"} <= own and matrix.kept_words([f"{key}=x" for key in own]) == []


def test_a_setting_of_a_loss_reaches_every_run_and_its_name_none() -> None:
    cfg = compose_config("reproduce", ["profile=smoke"])
    words = ["loss.weight.beta=0.5"]
    for method in ("normbt", "normbt_margin"):
        assert matrix.train_config(cfg, words, method, 0, "train").loss.weight.beta == 0.5
    with pytest.raises(InputError, match=r"loss\.weight\.beta"):
        matrix.train_config(cfg, words, "bt", 0, "train")
    for word in ("loss=hinge", "seed=7", "run_dir=x"):
        with pytest.raises(InputError, match=word):
            matrix.run_configs(cfg, [word], {})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seeds=[0,0]"], r"seeds=\[0, 0\]: contains duplicates"),
        (["methods=[bt,bt]"], "contains duplicates"),
        (["seeds=[]"], r"seeds=\[\]: give a list, such as seeds=\[0,1,2\]"),
        (["methods=[]"], "give a list"),
        (["seeds=3"], "seeds=3: give a list"),
        (["grid=0.1"], "grid=0.1: give a list"),
        (["grid=[fast]"], r"fast has the wrong type: give a list such as \[1e-4,3e-4\]"),
        (["until=rates"], "until=rates: give null, or rates together with a grid"),
        (["grid=[1e-3]", "until=end"], "until=end: give null, or rates"),
        (["seeds=[true]"], "True has the wrong type"),
        (["methods=[5]"], "5 has the wrong type"),
        (["gradient_pairs=abc"], "gradient_pairs=abc: must be a whole number, 1 or more"),
        (["best_of_n=no"], "best_of_n=no: give true or false or null"),
        (["benchmark=pairs", "benchmark_data=/nope"], "benchmark_data=/nope: no such file"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_computed(
    tmp_path: Path, words: list[str], message: str
) -> None:
    words = ["profile=smoke", f"runs_dir={tmp_path}/runs", *words]
    cfg = compose_config("reproduce", [*words, f"results_dir={tmp_path}/results"])
    with pytest.raises(InputError, match=message):
        pipeline.reproduce(cfg, words)
    assert not [*(tmp_path / "runs").glob("*/*")]


def test_the_label_names_an_experiment() -> None:
    plain = matrix.label(compose_config("reproduce", ["profile=cpu"]))
    assert plain.endswith("generated preference pairs · benchmark: generated · profile cpu")
    words = ["profile=cpu", "experiment=confirmatory", "matrix=forms"]
    assert matrix.label(compose_config("reproduce", words)) == f"{plain} · experiment confirmatory"
    swept = matrix.label(compose_config("sweep", words[:2]))
    assert swept == f"{plain} · sweep with the settings of confirmatory"


def test_a_loss_that_needs_every_token_goes_without_the_kernel_for_shared_rows() -> None:
    words = ["profile=cpu", "training.attention=flex_attention"]
    cfg = compose_config("reproduce", words)
    for method, kernel in (("normbt", "flex_attention"), ("normbt_mean_pooled", None)):
        training = matrix.train_config(cfg, words, method, 0, "train").training
        assert (training.attention, training.share_prefix) == (kernel, kernel is not None)


def test_paired_runs_see_the_same_order_and_head(done: Path) -> None:
    metrics = pd.read_parquet(done / "results/data/metrics.parquet")
    first = metrics[metrics["step"] == 1].set_index(["seed", "method"])
    for seed in (0, 1, 2):
        for column in ("distance_mean", "reward_margin", "pair_loss"):
            assert first.loc[(seed, "bt"), column] == first.loc[(seed, "normbt"), column]


def test_second_call_trains_and_scores_nothing(done: Path, cache: Path) -> None:
    watched = [*done.glob("runs/train/*/manifest.json"), *done.glob("runs/**/scores.parquet")]
    watched += done.glob("runs/train/*/best_of_n-*.npy")
    before = {path: path.stat().st_mtime_ns for path in watched}
    assert len(before) == 13 + 6
    figure = (done / "results/figures/figure2.svg").read_bytes()
    (done / "runs/log.txt").unlink()
    result = reproduce(done, cache)
    assert result.returncode == 0, result.stderr
    log = (done / "runs/log.txt").read_text()
    assert log.count("already trained") == 6
    assert log.count("already scored") == 7
    assert "already" not in result.stdout
    assert {path: path.stat().st_mtime_ns for path in watched} == before
    assert (done / "results/figures/figure2.svg").read_bytes() == figure


def composed(folder: Path, cache: Path, *words: str) -> tuple[DictConfig, list[str]]:
    own = [f"cache_dir={cache}", f"runs_dir={folder}/runs", f"results_dir={folder}/results"]
    overrides = ["profile=smoke", *own, *words]
    return compose_config("reproduce", overrides), overrides


def test_all_else_is_written_before_best_of_n_and_nothing_is_drawn_twice(
    done: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, drawn, started = tmp_path / "results", [], []

    def compute(*_: object) -> None:
        assert json.loads((results / "manifest.json").read_text())["best_of_n"] == "not finished"
        missing = {item.name: item.missing for item in read_index(results)}
        assert "Best-of-N was not" in missing["figure5"] and not missing["table1"]
        assert (results / "tables/table1.md").is_file()
        assert (results / "figures/figure2.svg").is_file()
        for path in done.glob("results/data/best_of_n*"):
            (results / "data" / path.name).write_bytes(path.read_bytes())
        started.append(True)

    real = style.write_figure
    monkeypatch.setattr(style, "write_figure", lambda f, stem: drawn.append(stem) or real(f, stem))
    monkeypatch.setattr(pipeline.best_of_n, "compute", compute)
    pipeline.reproduce(*composed(done, cache, "seeds=[0]", f"results_dir={results}"))
    assert started and results / "figures/figure5" in drawn and len(set(drawn)) == len(drawn)
    assert json.loads((results / "manifest.json").read_text())["best_of_n"] == "smoke"
    ours, theirs = (
        [item for item in read_index(folder) if item.name in ("best_of_n", "figure5")]
        for folder in (results, done / "results")
    )
    assert ours == theirs and all(item.files for item in ours)
    assert (results / "report.html").is_file()


def test_runs_that_can_no_longer_pick_leave_best_of_n_out(
    done: Path, cache: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As those of an archive that was packed before Best-of-N, which has no weights."""
    own = ("checkpoint", "best_of_n*")
    shutil.copytree(done / "runs", tmp_path / "runs", ignore=shutil.ignore_patterns(*own))
    shutil.copytree(done / "runs/untrained", tmp_path / "runs/untrained", dirs_exist_ok=True)
    pipeline.reproduce(*composed(tmp_path, cache, "seeds=[0]"))
    reason = "bt-seed0 has not scored these candidates and its weights are gone"
    assert f"Best-of-N is left out: {tmp_path}/runs/train/{reason}" in capfd.readouterr().out
    manifest = json.loads((tmp_path / "results/manifest.json").read_text())
    assert reason in manifest["best_of_n"]
    with pytest.raises(InputError, match=reason):
        pipeline.reproduce(*composed(tmp_path, cache, "seeds=[0]", "best_of_n=true"))


def test_too_few_prompts_for_best_of_n_are_said_before_anything_is_trained(
    tmp_path: Path, cache: Path
) -> None:
    path = tmp_path / "pairs.jsonl"
    row = {"chosen": "b", "rejected": "c", "category": "Chat", "subset": "ours"}
    rows = [{"prompt": f"a{n}", **row} for n in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["data=files", f"data.train={path}", "data.validation_share=0.1", "benchmark=pairs"]
    words += [
        f"benchmark_data={path}",
        "bon.policy.engine=transformers",
        "bon.golds=[reward_model]",
        "bon.gold.checkpoint=owner/name",
    ]
    with pytest.raises(InputError, match="number=5: only 4 prompts are available"):
        pipeline.reproduce(*composed(tmp_path, cache, *words, "bon.prompts.number=5"))
    assert (
        not [*tmp_path.glob("runs/**/manifest.json")] and not (tmp_path / "runs/untrained").exists()
    )


def test_prompts_of_the_benchmark_are_counted_in_training_data_and_refused_for_choices(
    tmp_path: Path, cache: Path
) -> None:
    """Of ten test pairs three are trained on; two, told by case and space only, choose the rate."""
    row = {"chosen": "b", "rejected": "c", "category": "Chat", "subset": "ours"}
    for name, prompts in (
        ("train", [f"train {n}" for n in range(20)] + ["test 0", "test 1", "Test  2"]),
        ("validation", ["held out", "TEST 8 ", "test 9"]),
        ("test", [f"test {n}" for n in range(10)]),
    ):
        lines = (json.dumps({"prompt": prompt, **row}) + "\n" for prompt in prompts)
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    words = ["data=files", f"data.train={tmp_path}/train.jsonl", "benchmark=pairs", "methods=[bt]"]
    words += [f"data.validation={tmp_path}/validation.jsonl"]
    words += [f"benchmark_data={tmp_path}/test.jsonl", "best_of_n=false", "seeds=[0]"]
    cfg, overrides = composed(tmp_path, cache, *words)
    assert matrix.prompts_trained_on(cfg, f"{tmp_path}/test.jsonl") == 3
    pipeline.reproduce(cfg, overrides)
    manifest = json.loads((tmp_path / "results/manifest.json").read_text())
    assert manifest["test_pairs_trained_on"] == 3
    said = read_manifest(tmp_path / "results")["label"]
    assert said.endswith(
        "not from the Hub · test pairs that share their prompt with a training pair: 3"
    )
    shutil.rmtree(tmp_path / "runs")
    with pytest.raises(InputError, match="2 of 3 validation pairs have a prompt of the benchmark"):
        pipeline.reproduce(*composed(tmp_path, cache, *words, "grid=[1e-3]"))
    assert not [*tmp_path.glob("runs/**/manifest.json")]


def test_held_out_conversations_are_scored_whole(tmp_path: Path) -> None:
    """Sides may differ from an earlier turn on."""
    sides = {
        side: [
            {"role": "assistant", "content": f"{side} first"},
            {"role": "user", "content": f"{side} question"},
            {"role": "assistant", "content": f"{side} last"},
        ]
        for side in ("chosen", "rejected")
    }
    rows = [
        {"prompt": "several turns", **sides, "category": "c"},
        {"prompt": "one turn", "chosen": "a", "rejected": "b", "category": "c"},
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["data=files", f"data.train={path}", "data.validation_share=0.0"]
    pairs = load_data(compose_config("train", words).data).train
    path.write_text("".join(matrix._as_row(pair, "c") + "\n" for pair in pairs))
    scored = BENCHMARKS["pairs"].load(str(path), [])
    assert [row.sides for row in scored] == [pair.sides for pair in pairs]
    assert json.loads(path.read_text().splitlines()[1])["chosen"] == "a"


def test_the_end_of_a_call_without_table_1_says_so(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    lines = [*closing.closing_lines(tmp_path, REPOSITORY / "results/cpu")]
    assert lines[0] == "\nNo Table 1: the benchmark has none of RewardBench's sections"
    assert lines[-1].startswith("\nreport: ")


def test_the_end_of_a_call_compares_with_the_committed_numbers(tmp_path: Path) -> None:
    """Rows are compared by method, backbone, data and benchmark; another's are not."""
    keys = {"method": "bt", "backbone": "tiny", "data": "made", "benchmark": "generated"}
    for folder, average, data in (("here", 70, "made"), ("there", 60, "made"), ("other", 60, "x")):
        row = {**keys, "data": data, "seeds": 3, "average": average}
        row |= {"average_low": average - 5, "average_high": average + 5}
        (tmp_path / folder / "tables").mkdir(parents=True)
        pd.DataFrame([row]).to_csv(tmp_path / folder / "tables/table1.csv", index=False)
        (tmp_path / folder / "data").mkdir()
    (line,) = closing.beside(tmp_path / "here", tmp_path / "there")
    assert line == "  BT: 70.0 here, 60.0 [55.0, 65.0] committed: OUTSIDE its interval"
    (line,) = closing.beside(tmp_path / "there", tmp_path / "there")
    assert line.endswith("committed: inside its interval")
    text = "\n".join(closing.closing_lines(tmp_path / "here", tmp_path / "other"))
    assert f"nothing to compare: {tmp_path / 'other'} has other methods" in text
    own = "\n".join(closing.closing_lines(tmp_path / "here", tmp_path / "here"))
    assert "nothing to compare" not in own and "Average here and in" not in own


@pytest.mark.parametrize(
    ("words", "folder"),
    [
        ([], "default"),
        (["experiment=confirmatory", "matrix=confirmatory"], "cpu"),
        (["experiment=replication", "matrix=replication"], "gemma"),
    ],
)
def test_a_call_is_compared_with_results_of_its_own_kind(words: list[str], folder: str) -> None:
    cfg = compose_config("reproduce", words)
    committed = pipeline.committed_folder(cfg)
    assert committed == Path("results") / folder
    table = pd.read_csv(REPOSITORY / committed / "tables/table1.csv")
    rows = table[(table["backbone"] == cfg.model.name) & (table["data"] == cfg.data.name)]
    assert set(cfg.methods) <= set(rows["method"])


def test_a_sweep_s_rates_stand_beside_those_of_the_matrix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gates and status read the file; another call of the matrix itself replaces it whole."""
    validated = {"accuracy": 0.5, "pairs": 2, "chat": 0.5}
    monkeypatch.setattr(matrix, "do_all", lambda *_: None)
    monkeypatch.setattr(matrix, "_validated", lambda run, rate: {
        "method": run.method, "learning_rate": rate, "seed": run.seed, **validated,
    })  # fmt: skip

    def choose(methods: str, grid: str = "grid=[0.1,0.2]", **options: bool) -> set[str]:
        words = ["profile=smoke", f"runs_dir={tmp_path}/runs", f"results_dir={tmp_path}/results"]
        words += [f"methods={methods}", grid, "data.train_pairs=16"]
        matrix.choose_rates(
            compose_config("reproduce", words), words, Screen(io.StringIO(), live=False), **options
        )
        return set(pd.read_csv(tmp_path / "results/data/grid.csv")["method"])

    assert choose("[bt,normbt]") == {"bt", "normbt"}
    assert choose("[hinge]", keep_others=True) == {"bt", "normbt", "hinge"}
    assert choose("[normbt]") == {"normbt"}
    assert choose("[bt]", "grid=[]", keep_others=True) == {"normbt"}
    with pytest.raises(FileNotFoundError):
        choose("[normbt]", "grid=[]")


def test_a_rate_from_the_edge_of_the_grid_is_named() -> None:
    grid = pd.DataFrame(
        [
            {"method": method, "learning_rate": rate, "chosen": rate == best}
            for method, best in (("bt", 1e-4), ("normbt", 3e-4), ("hinge", 1e-3))
            for rate in (1e-4, 3e-4, 1e-3)
        ]
    )
    bt, hinge = matrix.at_the_edge(grid)
    assert bt.startswith("grid: bt did best at its smallest learning rate, 0.0001: better")
    assert "hinge did best at its largest learning rate, 0.001:" in hinge
    assert matrix.at_the_edge(grid[grid["learning_rate"] == grid["learning_rate"].max()]) == []


def test_learning_rates_are_chosen_on_validation_pairs_alone(tmp_path: Path, cache: Path) -> None:
    words = ["methods=[bt,bsr]", "seeds=[0]", "grid=[1e-3,3e-2]", "best_of_n=true"]
    words += ["keep_checkpoints=false", "gradient_pairs=2", "training.micro_batch=4"]
    first = reproduce(tmp_path, cache, *words, "until=rates")
    assert first.returncode == 0, first.stderr
    assert first.stdout.endswith("grid.csv\n") and not (tmp_path / "results/manifest.json").exists()
    assert not (tmp_path / "runs/untrained").exists()  # no test pair is scored
    result = reproduce(tmp_path, cache, *words)
    assert result.returncode == 0, result.stderr
    grid = pd.read_csv(tmp_path / "results/data/grid.csv")
    assert len(grid) == 8 and (grid["pairs"] == 16).all() and set(grid["seed"]) == {1000, 1001}
    sections = grid[["chat", "chat_hard", "safety", "reasoning"]]
    assert grid["accuracy"].tolist() == pytest.approx(sections.mean(axis=1).tolist())
    means = grid.groupby(["method", "learning_rate"], as_index=False)["accuracy"].mean()
    best = means.loc[means.groupby("method")["accuracy"].idxmax()]
    chosen = grid[grid["chosen"]].drop_duplicates(["method", "learning_rate"])
    assert dict(zip(chosen["method"], chosen["learning_rate"], strict=True)) == dict(
        zip(best["method"], best["learning_rate"], strict=True)
    )
    untrained = tmp_path / "runs/untrained/evaluation/manifest.json"  # the first of the test pairs
    written = tmp_path / "results/data/grid.csv"
    assert untrained.stat().st_mtime_ns > written.stat().st_mtime_ns
    assert result.stdout.count("widen grid=") == 2  # of two rates, each is the first or the last
    manifest = json.loads((tmp_path / "results/manifest.json").read_text())
    rates = {run["method"]: run["config"]["training"]["learning_rate"] for run in manifest["runs"]}
    assert rates == dict(zip(best["method"], best["learning_rate"], strict=True))
    texts = [
        {json.dumps(json.loads(line)["prompt"]) for line in path.read_text().splitlines()}
        for path in (tmp_path / "runs/data/validation.jsonl", tmp_path / "runs/data/test.jsonl")
    ]
    assert len(texts[0]) == 16 and not texts[0] & texts[1]
    assert not list(tmp_path.glob("runs/**/checkpoint/*.safetensors"))[1:]  # the untrained one
    assert len(list(tmp_path.glob("runs/train-*/bt-seed0/best_of_n-*.npy"))) == 1  # scored before
    again = reproduce(tmp_path, cache, *words)
    assert again.returncode == 0, again.stderr
    log = tmp_path / "runs/log.txt"
    assert log.read_text().count("the checkpoint is gone") == 18
    kept = ("tables/table1.csv", "data/best_of_n.csv")
    made = {name: (tmp_path / "results" / name).read_bytes() for name in kept}
    runs, archive = tmp_path / "runs", tmp_path / "results/runs.tar.xz"
    assert pack(runs, archive) == 11
    runs.rename(tmp_path / "elsewhere")
    assert unpack(archive, runs) == (11, 0)
    other = reproduce(tmp_path, cache, *words, "eval.max_length=64")
    assert other.returncode == 2 and "scored with other settings" in other.stderr
    unpacked = reproduce(tmp_path, cache, *words)
    assert unpacked.returncode == 0, unpacked.stderr
    assert log.read_text().count("the checkpoint is gone") == 10
    assert {name: (tmp_path / "results" / name).read_bytes() for name in kept} == made


def test_real_benchmark_rows(shared_data: Path, tmp_path: Path, cache: Path) -> None:
    whole = gzip.decompress((shared_data / "rewardbench_mini.jsonl.gz").read_bytes())
    lines = whole.decode().splitlines()
    sample = tmp_path / "sample.jsonl"
    sample.write_text("\n".join(lines[::60]) + "\n")
    words = ["data=files", f"data.train={shared_data}/skywork_schema_train.jsonl.gz"]
    words += [
        "data.limit=24",
        "seeds=[0]",
        "gradient_pairs=2",
        "benchmark=rewardbench",
        f"benchmark_data={sample}",
        "texts=false",
    ]
    result = reproduce(tmp_path, cache, *words)
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "runs/train/bt-seed0/evaluation/summary.json").read_text())
    assert summary["pairs"] == len(lines[::60]) and summary["partial"]
    manifest = json.loads((tmp_path / "results/manifest.json").read_text())
    assert manifest["benchmark_data"].startswith("sample.jsonl (")
    assert manifest["runs"][0]["config"]["data"]["train"] == "skywork_schema_train.jsonl.gz"
    assert manifest["test_pairs_trained_on"] == 0
    assert str(shared_data) not in json.dumps(manifest)
    assert str(tmp_path) not in json.dumps(manifest)
    table = (tmp_path / "results/tables/table1.md").read_text()
    assert "its rows from a file, sample.jsonl (" in table and "RewardBench is partial" in table
    missing = {one.name: one.missing for one in read_index(tmp_path / "results")}
    assert missing["figure1"] == "the texts of the pairs were left out (texts=false)"
    written = [path for path in (tmp_path / "results").rglob("*") if path.is_file()]
    pages = "".join(
        html.unescape(path.read_text())
        for path in written
        if path.suffix not in (".png", ".parquet", ".lock")
    )
    told = [row["chosen"][:60] for row in map(json.loads, lines[::60]) if len(row["chosen"]) > 40]
    assert told and not [text for text in told if text in pages]
    assert not {*TEXTS} & {*pd.read_parquet(tmp_path / "results/data/pairs.parquet")}
    reason = manifest["best_of_n"]
    assert reason.startswith("left out: bon.policy.engine=synthetic draws from the generator")
    result = reproduce(tmp_path, cache, *words, "best_of_n=true")
    assert result.returncode == 2 and "engine=synthetic draws from the" in result.stderr


def test_generated_benchmark_needs_generated_data(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    row = {"prompt": "a", "chosen": "b", "rejected": "c"}
    path.write_text("".join(json.dumps({**row, "prompt": f"a{i}"}) + os.linesep for i in range(20)))
    result = reproduce(tmp_path, cache, "data=files", f"data.train={path}")
    assert result.returncode == 2 and "benchmark_data=PATH" in result.stderr


def test_data_that_a_later_method_cannot_use_are_refused_before_the_first_run(
    tmp_path: Path, run: Callable[..., int], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": f"Q{n}?", "chosen": "Yes.", "rejected": "No."} for n in range(40)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["profile=smoke", f"cache_dir='{cache}'", f"runs_dir='{tmp_path}/runs'"]
    words += [f"results_dir='{tmp_path}/results'", "data=files", f"data.train='{path}'"]
    assert run("reproduce", *words, "methods=[bt,bt_margin]", "best_of_n=false") == 2
    assert "loss=bt_margin needs a margin for every pair" in capsys.readouterr().err
    assert not (tmp_path / "runs/train").exists()
