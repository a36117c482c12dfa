"""What a person sees of a long command, with and without a terminal."""

from __future__ import annotations

import gc
import io
import itertools
import json
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tqdm import tqdm

from pipeline.launch import terminal
from pipeline.launch.terminal import Screen, follow, in_words, one_run, say, screen
from pipeline.settings.configuration import CONF, quick_imports

COMMAND = """
import itertools, os, sys, time
from pathlib import Path
from pipeline.launch.terminal import screen
done = itertools.chain([0.0], itertools.repeat(0.25))
with screen(Path(sys.argv[1])) as shown:
    print("of a library")
    os.write(2, b"of C code\\n")
    shown.line("six runs")
    with shown.stage("train", lambda: (next(done), "run 3 of 6")):
        time.sleep(1.2)
print("afterwards")
"""


def command(log: Path) -> list[str]:
    return [sys.executable, "-c", COMMAND, str(log)]


def test_without_a_terminal_a_stage_is_two_lines_and_the_rest_is_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "folder/log.txt"
    done = subprocess.run(command(log), cwd=CONF.parent, capture_output=True, text=True, check=True)
    assert done.stdout == "six runs\ntrain …\ntrain: 1 s\nafterwards\n" and done.stderr == ""
    assert log.read_text() == "of a library\nof C code\n"


@pytest.mark.parametrize("ci", ["", "1"])
def test_a_terminal_shows_progress_and_time_left_unless_ci_is_set(tmp_path: Path, ci: str) -> None:
    parent, child = pty.openpty()
    environment = {**os.environ, "CI": ci}
    log = tmp_path / "log.txt"
    done = subprocess.Popen(
        command(log), cwd=CONF.parent, stdout=child, stderr=child, env=environment
    )
    done.wait()
    os.close(child)
    shown = os.read(parent, 10_000).decode()
    assert ("train   25%" in shown and "left" in shown and "run 3 of 6" in shown) == (not ci)
    assert "train: 1 s" in shown and "of a library" not in shown


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.4, "59 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")]
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_without_a_terminal_a_long_stage_says_once_how_long_it_will_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(terminal, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(terminal, "ESTIMATE_AFTER", 0.2)
    stream, done = io.StringIO(), itertools.chain([0.0], itertools.repeat(0.01))
    with Screen(stream, live=False).stage("train", lambda: (next(done), "")):
        time.sleep(0.6)
    first, estimate, last = stream.getvalue().splitlines()
    assert (first, last) == ("train …", "train: 1 s")
    words = re.fullmatch(r"train: about (\d+) s left", estimate)
    assert words and 20 <= int(words[1]) <= 40  # 99 times the 0.2 to 0.4 s of the first hundredth
    stream, done = io.StringIO(), itertools.chain([0.0], itertools.repeat(0.009))
    with Screen(stream, live=False).stage("train", lambda: (next(done), "")):
        time.sleep(0.6)
    assert "left" not in stream.getvalue()  # the rate of less than a hundredth says nothing


def test_an_estimate_names_the_part_of_the_stage_that_it_is_about(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(terminal, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(terminal, "ESTIMATE_AFTER", 0.2)
    monkeypatch.setattr(terminal, "SHOW_AFTER", 0.0)
    stream, nowhere = io.StringIO(), open(os.devnull, "w")  # noqa: SIM115
    with (
        Screen(stream, live=False).stage("Best-of-N"),
        tqdm(total=100, initial=0, desc="score", file=nowhere) as part,
    ):
        part.update(50)
        time.sleep(0.6)
    assert re.search(r"^Best-of-N: score: about \d+ s left$", stream.getvalue(), re.MULTILINE)


def test_a_stage_shows_how_far_the_bar_of_a_library_is() -> None:
    nowhere = open(os.devnull, "w")  # noqa: SIM115
    other = tqdm(total=8, desc="score", unit="row", file=nowhere)
    own = tqdm(total=1.0, file=nowhere)
    other.start_t = time.time() - 10
    other.n = 2
    follow(other, own, "evaluate")
    shown = str(own)
    assert shown.startswith("evaluate: score   25%  00:10 gone, 00:30 left, 0.2 row/s")
    other.close()
    own.close()


def test_lines_that_matter_are_shown_for_one_run_and_logged_for_many(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with one_run("train bt", tmp_path / "one.txt"):
        say("3 pairs dropped")
    shown = f"train bt; log: {tmp_path}/one.txt\n3 pairs dropped\n"
    assert shown in capfd.readouterr().out
    with screen(tmp_path / "many.txt"):
        subprocess.run(["echo", "of a child"], check=True)
        say("of a run")
        place = terminal.where_output_is()
    assert place == f"{tmp_path}/many.txt" and terminal.where_output_is() == "above"
    assert (tmp_path / "many.txt").read_text() == "of a child\n"
    assert "of a child" not in capfd.readouterr().out


def test_a_command_that_fails_before_it_prints_leaves_no_log(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="gone"), screen(tmp_path / "run/log.txt"):
        raise OSError("gone")
    assert not (tmp_path / "run").exists()
    (tmp_path / "log.txt").touch()
    with screen(tmp_path / "log.txt"):
        pass
    assert (tmp_path / "log.txt").exists()  # an earlier command's


def test_imports_are_not_interrupted_by_garbage_collection() -> None:
    with quick_imports():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.unfreeze()  # what other tests made may be collected


NOISE = ("Loading weights", "LOAD REPORT", "WARNING", "shards", "%|", "mtime")
"""Words of what libraries print while a model is trained and scored."""
LAZY = {"wandb", "matplotlib", "optuna", "tensorboard", "sklearn"}
"""Packages that a run without a tracker needs none of."""
TRAIN_AND_EVALUATE = """
import json, sys
from pathlib import Path
folder, cache, pairs = sys.argv[1:]
from scripts import evaluate, train
small = ["profile=smoke", "data.train_pairs=16", f"cache_dir={cache}"]
sys.argv[1:] = [*small, f"run_dir={folder}/run"]
train.main()
Path(folder, "loaded.json").write_text(json.dumps(sorted(sys.modules)))
print("---", flush=True)
own = [f"checkpoint={folder}/run/checkpoint", f"output={folder}/scores", f"cache_dir={cache}"]
sys.argv[1:] = [*own, "benchmark=pairs", f"data={pairs}", "eval.resamples=200"]
evaluate.main()
"""


def test_training_and_scoring_print_a_few_lines_and_log_the_rest(
    tmp_path: Path, cache: Path
) -> None:
    pairs = tmp_path / "pairs.jsonl"
    row = {"chosen": "Yes.", "rejected": "No.", "category": "greeting"}
    pairs.write_text("".join(json.dumps({"prompt": f"{n}?", **row}) + "\n" for n in range(4)))
    words = [sys.executable, "-c", TRAIN_AND_EVALUATE, str(tmp_path), str(cache), str(pairs)]
    done = subprocess.run(words, cwd=CONF.parent, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert not [word for word in NOISE if word in done.stdout]
    trained, scored = done.stdout.replace(str(tmp_path), "/tmp").split("---\n")
    assert re.sub(r"\d+(\.\d+)?", "0", trained).splitlines() == [
        "train normbt, seed 0: tiny-llama on generated_v0_tiny; log: /tmp/run/log.txt",
        "prepare …",
        "0 pairs, 0 tokens",
        "score head: new, drawn by seed 0",
        "prepare: 0 s",
        "train, 0 steps of 0 pairs …",
        "train, 0 steps of 0 pairs: 0 s",
        "last 0 of 0 steps: loss 0, 0% of the training pairs ranked correctly",
        "checkpoint: /tmp/run/checkpoint",
    ]
    assert "; log: /tmp/scores/log.txt\n" in scored and len(scored.splitlines()) <= 14
    assert re.search(r"^section +accuracy % +95% interval +n\ngreeting ", scored, re.MULTILINE)
    for log in ("run/log.txt", "scores/log.txt"):
        assert "Loading weights" in (tmp_path / log).read_text()
    loaded = json.loads((tmp_path / "loaded.json").read_text())
    assert "torch" in loaded and not LAZY & set(loaded)
