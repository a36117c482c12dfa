"""Runs in one file and out of it again."""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path

import pandas as pd
import pytest

from eval.benchmarks import BENCHMARKS
from eval.rows import sample_rows
from pipeline.experiments import matrix, measure
from pipeline.experiments.archive import RECORDS, act, finished, pack, unpack
from pipeline.experiments.measure import Run
from pipeline.run.run_folder import stale_because
from pipeline.settings.configuration import compose_config
from rm.data.preferences import section_key
from rm.errors import InputError
from rm.provenance import fingerprint_of

ROOT = Path(__file__).resolve().parents[2]

FILES = {
    "train/bt-seed0/manifest.json": "{}",
    "train/bt-seed0/metrics.jsonl": "{}\n",
    "train/bt-seed0/gradients-ab.parquet": "numbers",
    "train/bt-seed0/evaluation/manifest.json": "{}",
    "train/bt-seed0/evaluation/scores.parquet": "scores",
    "sweep/beta=0.5/normbt-seed1/evaluation/manifest.json": "{}",
}
LEFT = {
    "train/bt-seed0/checkpoint/model.safetensors": "weights",
    "train/bt-seed0/trainer/state": "optimiser",
    "train/bt-seed0/evaluation/.lock": "",
    "train/bt-seed1/manifest.json": "trained, not scored",
    "data/test.jsonl": "pairs",
    ".lock": "",
}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def content_of(folder: Path) -> dict[str, str]:
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in paths}


def test_finished_runs_come_out_as_they_went_in_without_weights(tmp_path: Path) -> None:
    runs, archive = write(tmp_path / "runs", FILES | LEFT), tmp_path / "results/runs.tar.xz"
    assert pack(runs, archive) == 2
    assert unpack(archive, tmp_path / "other") == (2, 0)
    assert content_of(tmp_path / "other") == FILES
    assert unpack(archive, tmp_path / "other") == (0, 2)
    whole = archive.read_bytes()
    (runs / "train/bt-seed0/metrics.jsonl").touch()
    assert pack(runs, archive) == 2 and archive.read_bytes() == whole


def test_a_packed_run_names_no_folder_of_the_machine_that_made_it(tmp_path: Path) -> None:
    runs, run = tmp_path / "work/mine", "train/bt-seed0"
    settings = f"output: {runs}/{run}/evaluation\ndata: {runs}/data/test.jsonl\n"
    files = {
        f"{run}/evaluation/config.yaml": f"{settings}cache_dir: {tmp_path}/work\n",
        f"{run}/manifest.json": f'{{"run_dir": "{runs}/{run}", "cache_dir": "{tmp_path}/work"}}',
        f"{run}/metrics.jsonl": f"{tmp_path}/work",  # its checksum is in the manifest
    }
    write(runs, FILES | files)
    pack(runs, tmp_path / "runs.tar.xz")
    unpack(tmp_path / "runs.tar.xz", tmp_path / "other")
    shown = f"output: runs/mine/{run}/evaluation\ndata: runs/mine/data/test.jsonl\n"
    assert content_of(tmp_path / "other") == FILES | files | {
        f"{run}/evaluation/config.yaml": f"{shown}cache_dir: runs/cache\n",
        f"{run}/manifest.json": f'{{"run_dir": "runs/mine/{run}", "cache_dir": "runs/cache"}}',
    }
    pack(tmp_path / "other", tmp_path / "again.tar.xz")
    assert (tmp_path / "again.tar.xz").read_bytes() == (tmp_path / "runs.tar.xz").read_bytes()


def test_packing_adds_to_an_archive_and_what_is_there_is_left(tmp_path: Path) -> None:
    archive = tmp_path / "runs.tar.xz"
    pack(write(tmp_path / "one", FILES), archive)
    other = write(
        tmp_path / "two",
        {
            "train/bt-seed0/evaluation/manifest.json": "newer",
            "train/mlp-seed0/evaluation/manifest.json": "{}",
            "train/.bt-seed1.x.unfinished/evaluation/manifest.json": "half",
        },
    )
    assert pack(other, archive) == 3
    unpack(archive, tmp_path / "three")
    assert len(finished(tmp_path / "three")) == 3
    made = content_of(tmp_path / "three")
    assert made["train/bt-seed0/evaluation/manifest.json"] == "newer"
    assert "train/bt-seed0/metrics.jsonl" not in made


def test_a_finished_run_stays_in_the_archive_where_it_is_begun_again(tmp_path: Path) -> None:
    archive = tmp_path / "runs.tar.xz"
    pack(write(tmp_path / "one", FILES), archive)
    begun = {"train/bt-seed0/config.yaml": "", "train/mlp-seed0/evaluation/manifest.json": "{}"}
    assert pack(write(tmp_path / "two", begun), archive) == 3
    unpack(archive, tmp_path / "three")
    kept = content_of(tmp_path / "three")
    assert kept == FILES | {"train/mlp-seed0/evaluation/manifest.json": "{}"}


@pytest.mark.parametrize(
    "name",
    [
        "../outside/evaluation/manifest.json",
        "/outside/evaluation/manifest.json",
        "train/bt-seed0/checkpoint/model.py",
        "manifest.json",
    ],
)
def test_an_archive_holds_files_of_runs_alone(tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "a.tar.xz", "w:xz") as tar:
        tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(InputError, match="not a file of a run"):
        unpack(tmp_path / "a.tar.xz", tmp_path / "runs")
    assert content_of(tmp_path / "runs") == {}


def test_links_are_refused(tmp_path: Path) -> None:
    link = tarfile.TarInfo("train/bt-seed0/evaluation/manifest.json")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(tmp_path / "a.tar.xz", "w:xz") as tar:
        tar.addfile(link)
    with pytest.raises(InputError, match="not a file of a run"):
        unpack(tmp_path / "a.tar.xz", tmp_path / "runs")


def test_nothing_is_packed_where_no_run_is_finished(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no finished run"):
        pack(write(tmp_path / "runs", LEFT), tmp_path / "runs.tar.xz")
    assert not (tmp_path / "runs.tar.xz").exists()


def test_damaged_and_missing_archives_are_named(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar.xz"
    with pytest.raises(InputError, match="make it by action=pack"):
        unpack(archive, tmp_path / "other")
    pack(write(tmp_path / "runs", FILES), archive)
    whole = archive.read_bytes()
    for broken in (whole[: len(whole) // 2], b"no archive", b""):
        archive.write_bytes(broken)
        with pytest.raises(InputError, match="is damaged"):
            unpack(archive, tmp_path / "other")
    with tarfile.open(archive, "w:xz") as tar:
        tar.addfile(tarfile.TarInfo("train/bt-seed0/manifest.json"), io.BytesIO())
    with pytest.raises(InputError, match="bt-seed0 lacks evaluation/manifest"):
        unpack(archive, tmp_path / "other")


def test_the_command_says_what_it_did(tmp_path: Path) -> None:
    write(tmp_path / "runs", FILES)
    words = ["profile=smoke", f"runs_dir={tmp_path}/runs", f"archive={tmp_path}/some/runs.tar.xz"]
    pack_config = compose_config("archive", [*words, "action=pack"])
    assert act(pack_config) == f"{tmp_path}/some/runs.tar.xz: 2 runs, 0.0 MB"
    said = act(compose_config("archive", [*words, "action=unpack"]))
    assert said.endswith("0 runs unpacked, 2 already there and unchanged")
    with pytest.raises(InputError, match="choose pack or unpack"):
        act(compose_config("archive", [*words, "action=zip"]))


FREEZE = "experiment.freeze=null"
COMMITTED = {
    "cpu": ["profile=cpu", "experiment=confirmatory", "matrix=confirmatory", FREEZE],
}
"""The commands, without what changes no run, that made the archives of results/."""


def test_the_command_of_every_committed_archive_is_here() -> None:
    assert {path.parent.name for path in (ROOT / "results").glob("*/runs.tar.xz")} == {*COMMITTED}


@pytest.mark.parametrize("name", COMMITTED)
def test_committed_runs_can_be_gone_on_from(name: str, tmp_path: Path) -> None:
    """No run is stale and no measurement has another name: both would need the weights again."""
    results, runs = ROOT / "results" / name, tmp_path / "runs"
    unpack(results / "runs.tar.xz", runs)
    records = [path.read_text() for name in RECORDS for path in runs.rglob(name)]
    assert not [text for text in records if re.search(r"(?:_dir|output|data)\W+/", text)]
    words = [*COMMITTED[name], f"runs_dir={runs}", f"results_dir={results}"]
    held = {path.name.split("-seed")[0] for path in runs.glob("train*/*")}  # the rest is no matter
    words.append(f"methods=[{','.join(sorted(held))}]")
    cfg = compose_config("reproduce", words)
    configs = matrix.run_configs(cfg, words, matrix.known_rates(cfg))
    there = [one for one in configs if Path(one.run_dir).is_dir()]
    assert len(there) >= 6
    assert [stale_because(one, Path(one.run_dir)) for one in there] == [[]] * len(there)

    rows = sample_rows(
        BENCHMARKS[cfg.benchmark].load(matrix.benchmark_data(cfg, runs)), cfg.gradient_pairs
    )
    for one in there:
        run = Run(one.loss.name, one.seed, Path(one.run_dir))
        named = fingerprint_of([measure.VERSION, measure.inputs_of(cfg, run, rows)])
        assert {path.stem for path in run.folder.glob("gradients-*.parquet")} <= {
            f"gradients-{named}"
        }
    assert [*runs.glob("train*/*/gradients-*.parquet")]


def test_the_control_with_fixed_weights_has_those_of_the_pilots_normbt(tmp_path: Path) -> None:
    """conf/loss/category_weights.yaml: by category, the mean over all steps of two seeds."""
    unpack(ROOT / "results/cpu/runs.tar.xz", tmp_path)
    grid = pd.read_csv(ROOT / "results/cpu/data/grid.csv")
    rate = grid[grid["chosen"] & (grid["method"] == "normbt")]["learning_rate"].iloc[0]
    runs = sorted(tmp_path.glob(f"grid/{rate:g}/normbt-seed*/metrics.jsonl"))
    assert len(runs) == 2
    steps = [pd.read_json(path, lines=True) for path in runs]
    weights = compose_config("train", ["loss=category_weights"]).loss.deal.weights
    for category, weight in weights.items():
        column = f"weight_mean_{section_key(category)}"
        measured = sum(frame[column].mean() for frame in steps) / 2
        assert weight == pytest.approx(measured, abs=0.0051)
