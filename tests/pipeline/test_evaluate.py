"""Scoring a checkpoint from the command line: every benchmark, kills, ranks, wrong input."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from eval import rewardbench, rm_bench
from generated.backbones import build_tiny
from pipeline.launch.lock import LOCK_FILE
from pipeline.run.evaluation import NEUTRAL_SETTINGS, describe_test, evaluate
from pipeline.settings.configuration import compose_config, hydra_words
from rm.errors import InputError
from rm.model.backbones import BackboneSettings, prepare_backbone
from rm.model.checkpoints import new_reward_model, save_reward_model
from rm.provenance import fingerprint_of
from scripts import evaluate as command_line
from tests.marks import two_ranks

REPOSITORY = Path(__file__).resolve().parents[2]
PAIR = {"prompt": "Say hi.", "chosen": "Hi.", "rejected": "No.", "category": "greeting"}
Evaluate = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama reward model."""
    folder = tmp_path_factory.mktemp("tiny")
    content = yaml.safe_load((REPOSITORY / "conf/model/tiny-llama.yaml").read_text())
    backbone = prepare_backbone(BackboneSettings(**content), folder, build_tiny)
    save_reward_model(*new_reward_model(backbone, torch.float32, seed=0), folder / "checkpoint")
    return folder / "checkpoint"


@pytest.fixture
def score(checkpoint: Path, tmp_path: Path) -> Evaluate:
    """Evaluate the checkpoint with overrides (data=… and the like) into `output`."""

    def run(*words: str, output: Path = tmp_path / "out", **of: object) -> dict[str, Any]:
        return evaluate(configured(*words, output=output, checkpoint=of.get("model", checkpoint)))

    return run


def configured(*words: str, output: Path, checkpoint: object) -> Any:
    own = [f"checkpoint='{checkpoint}'", f"output='{output}'", f"cache_dir='{output}-cache'"]
    return compose_config(
        "evaluate", hydra_words([*own, "eval.resamples=200", "eval.max_length=128", *words])
    )


def write_lines(path: Path, records: list[dict]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def sample(source: Path, target: Path, key: str, count: int) -> Path:
    """Write the first `count` records of each value of `key`."""
    text = gzip.decompress(source.read_bytes()).decode()
    records = json.loads(text) if text.startswith("[") else map(json.loads, text.splitlines())
    kept: dict[str, list[dict]] = {}
    for record in records:
        kept.setdefault(record[key], []).append(record)
    return write_lines(target, [one for group in kept.values() for one in group[:count]])


def many_pairs(path: Path, count: int) -> Path:
    records = [
        {**PAIR, "prompt": f"What is {n}?", "chosen": f"A number: {n}. " * (1 + n % 7), "id": n}
        for n in range(count)
    ]
    return write_lines(path, records)


# --- attention ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("uncompiled")
def test_flex_attention_gives_the_same_scores_and_the_manifest_says_so(
    score: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = many_pairs(tmp_path / "pairs.jsonl", 12)
    words = ("benchmark=pairs", f"data={data}")
    score(*words)
    monkeypatch.setattr("pipeline.settings.checks.can_flex", lambda _: None)
    other = tmp_path / "flex"
    score(*words, "eval.attention=flex_attention", output=other)
    one, two = (pd.read_parquet(folder / "scores.parquet") for folder in (tmp_path / "out", other))
    rewards = [frame.reward_chosen.to_numpy() for frame in (one, two)]
    assert rewards[0] == pytest.approx(rewards[1], rel=1e-4)
    facts = json.loads((other / "manifest.json").read_text())["scoring"]
    assert facts["attention"] == "flex_attention" and facts["share_prefix"]
    score(*words, "eval.attention=flex_attention")  # no reason to score again


def test_flex_attention_needs_a_gpu_and_shared_prefixes(score: Evaluate, tmp_path: Path) -> None:
    words = ("benchmark=pairs", f"data={many_pairs(tmp_path / 'pairs.jsonl', 2)}")
    own = (*words, "eval.attention=flex_attention")
    with pytest.raises(
        InputError, match=r"eval\.attention=flex_attention needs eval\.share_prefix"
    ):
        score(*own, "eval.share_prefix=false")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="this machine has none; leave it null"):
            score(*own)


# --- benchmarks ---------------------------------------------------------------------------------


def test_rewardbench_on_real_rows(score: Evaluate, shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "rewardbench_mini.jsonl.gz"
    data = sample(source, tmp_path / "rb.jsonl", "subset", 3)
    summary = score(f"data={data}")
    scores = pd.read_parquet(tmp_path / "out/scores.parquet")
    assert len(scores) == summary["pairs"] == summary["rows"] == 23 * 3
    assert scores["pair_id"].tolist() == [row.pair_id for row in rewardbench.load(str(data))]
    assert {"subsets", "sections", "average", "pairs", "ties", "partial"} <= set(summary)
    assert summary["truncated"] == int(scores["truncated"].sum()) > 0
    text = (tmp_path / "out/table.md").read_text()
    assert "Reasoning (partial)" in text and "math-prm has 3 of 447 rows" in text
    assert "average of 4 sections (partial)" in text
    assert f"{summary['truncated']} of 69 rows truncated" in text
    check_intervals(summary, {"section", "subset", "average"})


def test_rm_bench_on_real_rows(score: Evaluate, shared_data: Path, tmp_path: Path) -> None:
    data = sample(shared_data / "rm_bench.json.gz", tmp_path / "rm.jsonl", "domain", 3)
    summary = score("benchmark=rm_bench", f"data={data}")
    scores = pd.read_parquet(tmp_path / "out/scores.parquet")
    items = rm_bench.load(str(data))
    assert scores["item_id"].tolist() == [i.item_id for i in items for _ in range(6)]
    assert (summary["items"], summary["rows"], summary["pairs"]) == (12, 12, 108)
    assert summary["partial"]["math"] == ["no rows: left out of the average"]
    assert summary["partial"]["code"] == ["code has 3 of 228 rows"]  # a cut of the file is noticed
    text = (tmp_path / "out/table.md").read_text()
    assert "| math (partial) | — | — | 0 | no rows: left out of the average |" in text
    check_intervals(summary, {"section", "subset", "average", "difficulty"})
    assert found(summary, "difficulty", "hard")["mean"] == summary["difficulties"]["hard"]


def test_judgebench_on_real_rows(score: Evaluate, shared_data: Path, tmp_path: Path) -> None:
    data = sample(shared_data / "judgebench.jsonl.gz", tmp_path / "jb.jsonl", "source", 2)
    summary = score("benchmark=judgebench", f"data={data}")
    check_intervals(summary, {"section", "subset", "average", "overall"})
    assert found(summary, "overall", "overall")["mean"] == pytest.approx(summary["overall"])
    assert "overall: share of all pairs (partial)" in (tmp_path / "out/table.md").read_text()


def test_rewardbench2_says_where_it_has_no_interval(score: Evaluate, tmp_path: Path) -> None:
    def item(subset: str, name: str, chosen: list[str]) -> dict:
        wrong = [f"{name} {k}" for k in range(3)]
        return {"id": name, "subset": subset, "prompt": "?", "chosen": chosen, "rejected": wrong}

    records = [item("Focus", f"f{n}", [f"yes {n}"]) for n in range(6)]
    ties = [item("Ties", "tied:1", ["red", "blue"]), item("Ties", "ref:1", ["four"])]
    with_ties = score(
        "benchmark=rewardbench2", f"data={write_lines(tmp_path / 'a.jsonl', records + ties)}"
    )
    rows = (tmp_path / "out/table.md").read_text().splitlines()
    for name in ("Ties (partial)", "average of 2 sections (partial)"):
        line = next(row for row in rows if row.startswith(f"| {name}"))
        assert line.split("|")[3].strip() == "none"
    check_intervals(with_ties, {"section", "subset"})
    without = score(
        "benchmark=rewardbench2",
        f"data={write_lines(tmp_path / 'b.jsonl', records)}",
        output=tmp_path / "b",
    )
    check_intervals(without, {"section", "subset", "average"})
    only = score(
        "benchmark=rewardbench2",
        f"data={write_lines(tmp_path / 'c.jsonl', ties)}",
        output=tmp_path / "c",
    )
    assert only["intervals"] == [] and only["sections"]["Ties"] == only["average"]


def check_intervals(summary: dict[str, Any], levels: set[str]) -> None:
    """The interval's own mean is the summary's score, and lies inside."""
    assert {entry["level"] for entry in summary["intervals"]} == levels
    values = {("section", name): value for name, value in summary["sections"].items()}
    values |= {("subset", name): e["accuracy"] for name, e in summary["subsets"].items()}
    values["average", "average"] = summary["average"]
    for entry in summary["intervals"]:
        assert entry["low"] <= entry["mean"] <= entry["high"]
        key = entry["level"], entry["name"]
        if key in values:
            assert entry["mean"] == pytest.approx(values[key])


def found(summary: dict[str, Any], level: str, name: str) -> dict[str, Any]:
    return next(e for e in summary["intervals"] if (e["level"], e["name"]) == (level, name))


# --- the same scores, whatever happens ----------------------------------------------------------


def test_finished_work_is_not_repeated_until_an_input_changes(
    score: Evaluate, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = many_pairs(tmp_path / "pairs.jsonl", 5)
    own = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, own)
    words = ("benchmark=pairs", f"data={data}")
    first = score(*words, model=own)
    capsys.readouterr()
    assert score(*words, model=own) == first
    assert score(*words, "eval.padding_side=left", model=own) == first
    assert capsys.readouterr().out.count("already scored") == 2
    template = own / "chat_template.jinja"
    template.write_text(template.read_text().replace("assistant", "helper"))
    with pytest.raises(InputError, match=r"jinja is damaged .* if you changed it yourself"):
        score(*words, model=own)
    (own / "checksums.json").unlink()
    score(*words, model=own)
    score(*words, "eval.max_length=16", model=own)
    many_pairs(data, 6)
    score(*words, "eval.max_length=16", model=own)
    assert "already scored" not in capsys.readouterr().out
    folder = tmp_path / "set"
    folder.mkdir()
    for pairs, twice in ((5, False), (5, True), (6, False)):  # the folder keeps its name
        many_pairs(folder / "test.jsonl", pairs)
        score("benchmark=pairs", f"data={folder}", "eval.max_length=16", model=own)
        assert ("already scored" in capsys.readouterr().out) is twice


def test_the_manifest_says_which_date_the_template_prints_and_how_many_responses_are_empty(
    score: Evaluate, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, own)
    (own / "checksums.json").unlink()
    template = own / "chat_template.jinja"
    dated = "{{ strftime_now('%Y') }}{% if messages[-1]['content'] == '' %}"
    template.write_text(dated + "{{ raise_exception('empty') }}{% endif %}" + template.read_text())
    item = {"prompt": "Why?", "chosen": ["a"], "rejected": ["b", "", "c"], "subset": "Math"}
    data = write_lines(tmp_path / "items.jsonl", [{**item, "id": n} for n in range(2)])
    score("benchmark=rewardbench2", f"data={data}", model=own)
    scoring = json.loads((tmp_path / "out/manifest.json").read_text())["scoring"]
    assert (scoring["template_date"], scoring["refused_empty"]) == ("2024-07-26", 2)
    assert "2 rows have an empty response, which the chat template refuses (first Math/0)" in (
        capsys.readouterr().out
    )


def test_rows_with_tools_are_refused_or_scored_without(score: Evaluate, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "pairs.jsonl", [PAIR, {**PAIR, "tools": [{"name": "f"}]}])
    words = ("benchmark=pairs", f"data={data}")
    with pytest.raises(InputError, match=r"row 2: tools.*row has tools; data.ignore=\[tools\]"):
        score(*words)
    assert score(*words, "eval.ignore=[tools]")["pairs"] == 2
    with pytest.raises(InputError, match=r"ignore=\[tool\]: choose from tools, images"):
        score(*words, "eval.ignore=[tool]")


def test_evaluations_of_before_a_key_was_added_are_finished_still(tmp_path: Path) -> None:
    cfg = configured("data=hub", output=tmp_path, checkpoint=tmp_path)
    settings = {k: v for k, v in cfg.eval.items() if k not in ("ignore", *NEUTRAL_SETTINGS)}
    assert describe_test(cfg)["settings"] == fingerprint_of(settings)
    cfg.eval.ignore = ["tools"]
    assert describe_test(cfg)["settings"] != fingerprint_of(settings)


@pytest.mark.parametrize("name", ["scores.parquet", "summary.json", "manifest.json"])
def test_damaged_scores_are_made_anew(score: Evaluate, tmp_path: Path, name: str) -> None:
    words = ("benchmark=pairs", f"data={many_pairs(tmp_path / 'pairs.jsonl', 5)}")
    score(*words)
    path = tmp_path / "out" / name
    content = path.read_bytes()
    path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    score(*words)
    if name != "manifest.json":
        assert path.read_bytes() == content
    assert json.loads((tmp_path / "out/manifest.json").read_bytes())["outputs"]


def start(*words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "scripts.evaluate", *words],
        cwd=REPOSITORY,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.time() + 120
    while not condition():
        assert process.poll() is None and time.time() < end, process.communicate()
        time.sleep(0.005)


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_with_the_identical_file(
    score: Evaluate, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, output = many_pairs(tmp_path / "pairs.jsonl", 400), tmp_path / "killed"
    words = ["benchmark=pairs", f"data={data}", "eval.batch_tokens=1"]
    score(*words, output=tmp_path / "whole")
    process = start(
        *words,
        f"checkpoint={checkpoint}",
        f"output={output}",
        "eval.resamples=200",
        "eval.max_length=128",
    )
    partial = output / ".scores-rank0.partial"
    wait_for(lambda: partial.is_file() and partial.stat().st_size > 10_000, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert partial.is_file() and not (output / "scores.parquet").exists()
    capsys.readouterr()
    score(*words, output=output)
    bar = capsys.readouterr().err
    done = int(bar.split(" rows already scored")[0].rsplit(" ", 1)[1])
    assert 60 < done < 800
    for name in ("scores.parquet", "summary.json", "table.md"):
        assert (output / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert [path.name for path in output.glob(".*")] == [LOCK_FILE]


@pytest.mark.slow
@two_ranks
def test_two_ranks_give_the_scores_of_one(score: Evaluate, tmp_path: Path) -> None:
    data = many_pairs(tmp_path / "pairs.jsonl", 40)
    words = ("benchmark=pairs", f"data={data}", "eval.batch_tokens=300", "threads=1")
    one = score(*words)
    two = score(*words, "devices=2", output=tmp_path / "two")
    assert two == one
    first, second = (pd.read_parquet(tmp_path / n / "scores.parquet") for n in ("out", "two"))
    pd.testing.assert_frame_equal(first, second, rtol=1e-5)
    assert json.loads((tmp_path / "two/manifest.json").read_text())["scoring"]["ranks"] == 2


def test_a_hub_model_is_scored_by_its_name(
    score: Evaluate,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The Hub's local cache holds the checkpoint as someone/reward."""
    commit, repository = "0" * 39 + "1", tmp_path / "hub/models--someone--reward"
    shutil.copytree(checkpoint, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    data = many_pairs(tmp_path / "pairs.jsonl", 5)
    words = ["benchmark=pairs", f"data={data}", "eval.resamples=200", "eval.max_length=128"]
    own = ["checkpoint=someone/reward", f"output={tmp_path / 'named'}"]
    monkeypatch.setattr(sys, "argv", ["evaluate", *own, *words])
    command_line.main()
    printed = capsys.readouterr()
    assert "\ngreeting  " in printed.out and "tok/s" in printed.err
    inputs = json.loads((tmp_path / "named/manifest.json").read_text())["inputs"]
    assert inputs["checkpoint"] == f"someone/reward@{commit}"
    score(*words)
    local, named = (pd.read_parquet(tmp_path / n / "scores.parquet") for n in ("out", "named"))
    pd.testing.assert_frame_equal(local, named)


# --- input that is wrong ------------------------------------------------------------------------


def test_a_missing_subset_marks_its_section_in_every_table(score: Evaluate, tmp_path: Path) -> None:
    record = {"prompt": "?", "chosen": "a", "rejected": "b"}
    records = [{**record, "id": n, "subset": "hep-go"} for n in range(164)]
    records += [{**record, "id": n, "subset": "llmbar-natural"} for n in range(100)]
    summary = score(f"data={write_lines(tmp_path / 'a.jsonl', records)}", "eval.max_length=32")
    assert "missing subset math-prm" in summary["partial"]["Reasoning"]
    text = (tmp_path / "out/table.md").read_text()
    assert "| Chat (partial) | — | — | 0 | no rows: left out of the average |" in text
    assert "| Reasoning (partial) |" in text and "| average of 2 sections (partial) |" in text
    assert "| math-prm | Reasoning (partial) | — | — | 0 | 984 | — |" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"subset": "hep-basic"}, "row 2: unknown subset 'hep-basic' for rewardbench; valid: alp"),
        ({"chosen": None}, "row 2: missing field: chosen is missing"),
        ({"prompt": "  "}, "row 2: empty prompt: the prompt's last user message is empty"),
    ],
)
def test_a_corrupted_row_is_named(
    score: Evaluate, tmp_path: Path, change: dict, message: str
) -> None:
    good = {"prompt": "?", "chosen": "a", "rejected": "b", "subset": "hep-go"}
    data = write_lines(tmp_path / "a.jsonl", [good, {**good, **change}])
    with pytest.raises(InputError, match=message):
        score(f"data={data}")
    assert not (tmp_path / "out").exists()


def test_a_nan_reward_is_an_error_that_writes_no_scores(
    score: Evaluate, checkpoint: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(checkpoint, broken)
    weights = load_file(broken / "model.safetensors")
    weights["score.weight"][0, 0] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    (broken / "checksums.json").unlink()
    data = many_pairs(tmp_path / "pairs.jsonl", 4)
    with pytest.raises(InputError, match="4 of 4 have a NaN or infinite reward"):
        score("benchmark=pairs", f"data={data}", model=broken)
    assert not (tmp_path / "out/scores.parquet").exists()
    score("benchmark=pairs", f"data={data}")  # mended: the same output folder will do


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("benchmark=mtbench", "benchmark=mtbench: choose rewardbench, rewardbench2, rm_bench"),
        ("devices=0", "devices=0: must be 1 or more"),
        ("devices=two", "devices=two: must be 1 or more"),
        ("eval.batch_tokens=abc", "abc"),
        ("eval.max_length=0", "eval.max_length=0: must be 1 or more"),
        ("eval.max_length=9999", "eval.max_length=9999: the backbone has 2048 positions"),
        ("eval.batch_tokens=0", "eval.batch_tokens=0: must be 1 or more"),
        ("eval.compute_dtype=int8", "eval.compute_dtype=int8: choose float32"),
        ("eval.padding_side=top", "padding_side=top: choose left or right"),
        ("checkpoint=nowhere", "no checkpoint at nowhere: give a folder or a Hub name"),
        ("data=nowhere.jsonl", "nowhere.jsonl: no such file or folder"),
    ],
)
def test_settings_that_cannot_work(
    score: Evaluate, tmp_path: Path, word: str, message: str
) -> None:
    data = many_pairs(tmp_path / "pairs.jsonl", 2)
    with pytest.raises(InputError, match=message):
        score("benchmark=pairs", f"data={data}", word)


def test_the_command_line_replaces_no_evaluation_of_another_test(
    checkpoint: Path, tmp_path: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"checkpoint={checkpoint}", "benchmark=pairs", f"output={tmp_path}/o"]
    first, second = (many_pairs(tmp_path / f"{name}.jsonl", count) for name, count in
                     (("first", 2), ("second", 3)))  # fmt: skip
    assert run("evaluate", *words, f"data={first}") == 0
    written = (tmp_path / "o/scores.parquet").read_bytes()
    assert run("evaluate", *words, f"data={second}") == 2
    assert "holds an evaluation of other data" in capsys.readouterr().err
    assert (tmp_path / "o/scores.parquet").read_bytes() == written
    assert run("evaluate", *words, f"data={first}") == 0


def test_the_command_line_says_what_is_wrong_in_one_line(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = write_lines(tmp_path / "pairs.jsonl", [{**PAIR, "chosen": 3}])
    words = [f"checkpoint={checkpoint}", "benchmark=pairs", f"data={data}", f"output={tmp_path}/o"]
    monkeypatch.setattr(sys, "argv", ["evaluate", *words])
    with pytest.raises(SystemExit) as stop:
        command_line.main()
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"error: {data}: row 1: wrong type: chosen is a int, not a text or a list of messages"
    )
