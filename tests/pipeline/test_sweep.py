"""`scripts.sweep` on the smoke profile: every value trained, the table complete and mergeable."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from omegaconf import OmegaConf

from analysis import figure11, gallery
from pipeline.experiments import measure
from pipeline.experiments.matrix import train_config
from pipeline.experiments.measure import Run
from pipeline.experiments.sweep import COLUMNS, RUN, merge, sweep, sweep_config
from pipeline.run.training import train
from pipeline.settings.configuration import CONF, compose_config
from rm.errors import InputError

pytestmark = pytest.mark.slow


def run(folder: Path, cache: Path, *own: str) -> Path:
    words = ["profile=smoke", f"cache_dir={cache}", f"runs_dir={folder}/runs", "seeds=[0]"]
    words += [f"results_dir={folder}/results", "data.train_pairs=16", *own]
    return sweep(compose_config("sweep", words), words)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """Two sweeps in one folder; return their table. No test changes what is there."""
    folder = tmp_path_factory.mktemp("both")
    run(folder, cache, "sweep=cap", "sweep.values=[1,4]")
    return run(folder, cache, "sweep=label_noise", "sweep.values=[0.0,1.0]")


def test_sweeps_fill_one_table(both: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, folder = both, both.parents[2]
    table = pd.read_csv(path)
    assert len(table) == (2 + 2 * 2) * 5
    assert not table.duplicated(["method", "parameter", "value", "seed", "section"]).any()
    runs = [*(folder / "runs/sweep").glob("*/*/manifest.json")]
    base = [*(folder / "runs/train").glob("*/manifest.json")]
    assert len(runs) == 4 and len(base) == 2 and not [*(folder / "runs/sweep").rglob("checkpoint")]
    assert len([*(folder / "runs/train").rglob("checkpoint")]) == 2  # reproduce measures them
    with pytest.raises(InputError, match="weights are gone: delete that folder, and the same"):
        dropped = Run("bt", 0, runs[0].parent)
        measure.measure_layers(compose_config("train", ["profile=smoke"]), dropped, [])
    written = [one.read_bytes() for one in tables_of(path)]
    capsys.readouterr()
    run(folder, cache, "sweep=cap", "sweep.values=[1.0,4.0]")  # written otherwise, the same runs
    assert capsys.readouterr().out.count("the checkpoint is gone") == 2
    assert [one.read_bytes() for one in tables_of(path)] == written
    frame = figure11.collect(path.parent)
    assert set(frame["parameter"]) == {"cap", "label_noise"}
    drawn = {item.name for item in gallery.draw_all(path.parents[1]) if not item.missing}
    assert drawn == {"figure11", "table3", "table5"}  # of a folder that holds sweeps alone


def test_a_sweep_may_be_worked_off_value_by_value_and_seed_by_seed(
    tmp_path: Path, cache: Path
) -> None:
    for values, seeds in (("[4]", "[0]"), ("[1]", "[0,1]"), ("[4]", "[1]")):
        path = run(tmp_path, cache, "sweep=cap", f"sweep.values={values}", f"seeds={seeds}")
    words = ["sweep=cap", "sweep.values=[1,4]", "seeds=[0,1]", f"results_dir={tmp_path}/at_once"]
    at_once = run(tmp_path, cache, *words, "workers=2")
    assert path.read_bytes() == at_once.read_bytes()
    pd.testing.assert_frame_equal(*(pd.read_parquet(tables_of(one)[1]) for one in (path, at_once)))
    noted, whole = (json.loads(one.with_name("sweep.json").read_text()) for one in (path, at_once))
    assert noted["cap"]["runs"] == whole["cap"]["runs"]
    runs = [(one["value"], one["method"], one["seed"]) for one in noted["cap"]["runs"]]
    assert runs == [(value, "normbt", seed) for value in (1, 4) for seed in (0, 1)]


def test_a_value_that_the_table_rounds_is_replaced(tmp_path: Path) -> None:
    path, third = tmp_path / "sweep.csv", 1 / 3
    run_of = {"method": "bt", "parameter": "beta", "seed": 0, "section": "average"}
    for value, accuracy in ((third, 0.1), (0.5, 0.2), (third, 0.3)):
        frame = pd.DataFrame([{**run_of, "value": value, "accuracy": accuracy}])
        merge(frame[COLUMNS], path, COLUMNS[:-1])
    assert pd.read_csv(path)[["value", "accuracy"]].to_numpy().tolist() == [
        [0.333333, 0.3],
        [0.5, 0.2],
    ]


def of_run(frame: pd.DataFrame, key: tuple[str, float, str, int]) -> pd.DataFrame:
    return frame[(frame[RUN] == list(key)).all(axis=1)]


def tables_of(path: Path) -> list[Path]:
    return [path, path.with_name("sweep_scores.parquet")]


def test_every_pair_and_every_run_of_both_sweeps_is_noted(both: Path) -> None:
    path = both
    scores = pd.read_parquet(path.with_name("sweep_scores.parquet"))
    runs = ["parameter", "value", "method", "seed"]
    assert scores.groupby(runs).size().tolist() == [len(scores) / 6] * 6
    table = pd.read_csv(path).query("section == 'average'").set_index(runs).sort_index()
    correct = scores.assign(correct=scores["reward_chosen"] > scores["reward_rejected"])
    sections = correct.groupby([*runs, "section"])["correct"].mean()
    means = sections.groupby(runs).mean().to_numpy()
    assert table["accuracy"].to_numpy() == pytest.approx(means, abs=1e-5)

    noted = json.loads(path.with_name("sweep.json").read_text())
    assert list(noted) == ["cap", "label_noise"]
    of_noise = noted["label_noise"]["runs"]
    assert [(one["value"], one["method"], one["seed"]) for one in of_noise] == [
        (0.0, "bt", 0), (0.0, "normbt", 0), (1.0, "bt", 0), (1.0, "normbt", 0),
    ]  # fmt: skip
    assert [one["config"]["data"]["label_noise"] for one in of_noise] == [0.0, 0.0, 1.0, 1.0]
    assert str(path.parents[2]) not in path.with_name("sweep.json").read_text()
    assert noted["cap"]["label"].startswith("tiny-llama · generated")


def test_the_value_that_the_configuration_has_is_the_matrix_s_own_run(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["profile=smoke", f"cache_dir={cache}", f"runs_dir={tmp_path}/runs"]
    words += ["data.train_pairs=16"]
    one = train_config(compose_config("sweep", words), words, "normbt", 0, "train")
    train(one)
    weights = Path(one.run_dir) / "checkpoint/model.safetensors"
    written = weights.read_bytes()
    capsys.readouterr()
    run(tmp_path, cache, "sweep=beta", "sweep.values=[0.5,0.9]")
    assert f"{one.run_dir}: already trained" in capsys.readouterr().out
    assert weights.read_bytes() == written, "weights that were there stay"
    assert [path.name for path in (tmp_path / "runs/sweep").iterdir()] == ["beta=0.5"]


def test_a_run_of_other_settings_stays_where_reproduce_made_it(tmp_path: Path, cache: Path) -> None:
    words = ["profile=smoke", f"cache_dir={cache}", f"runs_dir={tmp_path}/runs"]
    one = train_config(
        compose_config("sweep", words), [*words, "data.train_pairs=16"], "normbt", 0, "train"
    )
    train(one)
    run(tmp_path, cache, "sweep=beta", "sweep.values=[0.9]", "data.train_pairs=24")
    assert (Path(one.run_dir) / "checkpoint/model.safetensors").is_file()
    assert json.loads((Path(one.run_dir) / "manifest.json").read_text())["config"] == (
        OmegaConf.to_container(one, resolve=True)
    )
    assert [path.name for path in (tmp_path / "runs/sweep").iterdir()] == ["beta=0.9"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep=cap", "sweep.values=[null,1.0]"], "None has the wrong type"),
        (["sweep=cap", "sweep.values=[linear]"], r"linear has the wrong type: give a list"),
        (["sweep=cap", "sweep.values=[]"], r"sweep.values=\[\]: give a list, such as"),
        (["sweep=cap", "sweep.values=0.5"], "sweep.values=0.5: give a list"),
        (["sweep=cap", "sweep.values=[1,1.0]"], "contains duplicates"),
        (["sweep=cap", "sweep.methods=normbt"], "sweep.methods=normbt: give a list"),
        (["sweep=cap", "sweep.methods=[]"], r"sweep.methods=\[\]: give a list"),
        (["sweep=cap", "model=tiny-gemma"], "has sweeps of tiny-llama"),
        (["sweep=cap", "sweep.methods=[bt]"], "loss.weight.cap"),
        (["sweep=cap", "sweep.methods=[bt]", "grid=[0.1]"], "loss.weight.cap"),
        (["sweep=learning_rate", "grid=[0.1]"], r"chooses no learning rates: give grid=\[\]"),
        (["sweep=cap", "sweep.key=loss.weight.kap"], "unknown key loss.weight.kap"),
        (["sweep=cap", "loss=bt"], r"loss=bt: .* give methods="),
        (["sweep=cap", "seed=7"], r"seed=7: .* give seeds="),
    ],
)
def test_what_cannot_be_swept_is_said_before_anything_is_trained(
    tmp_path: Path, cache: Path, words: list[str], message: str
) -> None:
    noted = tmp_path / "results/data/sweep.json"
    noted.parent.mkdir(parents=True)
    made = "tiny-llama · generated preference pairs · benchmark: generated · profile smoke"
    noted.write_text(json.dumps({"beta": {"label": made, "sweep": {"key": "x"}, "runs": []}}))
    with pytest.raises(InputError, match=message):
        run(tmp_path, cache, *words)
    assert not [*(tmp_path / "runs").rglob("metrics.jsonl")]


def test_each_method_keeps_the_rate_that_it_chose_on_validation_pairs(
    tmp_path: Path, cache: Path
) -> None:
    run(tmp_path, cache, "sweep=train_pairs", "sweep.values=[8,16]", "grid=[0.001,0.01]")
    grid = pd.read_csv(tmp_path / "results/data/grid.csv")
    chosen = grid[grid["chosen"]].groupby("method")["learning_rate"].first().to_dict()
    noted = json.loads((tmp_path / "results/data/sweep.json").read_text())["train_pairs"]["runs"]
    assert {one["method"]: one["config"]["training"]["learning_rate"] for one in noted} == chosen
    assert {one["value"] for one in noted} == {8, 16} and set(chosen) == {"bt", "normbt"}
    own = sorted({path.parent.name for path in tmp_path.glob("runs/train*/*")})
    assert own == sorted({f"train-training.learning_rate={rate}" for rate in chosen.values()})


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "sweep").glob("*.yaml")))
def test_every_sweep_composes_for_every_method_and_value(name: str) -> None:
    cfg = compose_config("sweep", [f"sweep={name}"])
    assert cfg.sweep.parameter == name
    for method in cfg.sweep.methods:
        for value in cfg.sweep["values"]:
            one = sweep_config(cfg, [], method, 0, value, {})
            assert OmegaConf.select(one, cfg.sweep.key) == value


def test_runs_of_other_settings_do_not_join_a_curve(both: Path, cache: Path) -> None:
    """Of whatever parameter: one figure shows them all. The swept keys may differ."""
    before = both.read_text()
    for sweep_word in ("sweep=cap", "sweep=beta"):
        with pytest.raises(InputError, match=r"other settings \(training.learning_rate: 0.7 ≠ "):
            run(
                both.parents[2],
                cache,
                sweep_word,
                "sweep.values=[0.5]",
                "training.learning_rate=0.7",
            )
    assert both.read_text() == before


@pytest.mark.parametrize(
    ("words", "named"),
    [(["eval.max_length=64"], "evaluation"), (["benchmark_data=FILE"], "benchmark_data")],
)
def test_runs_that_were_scored_otherwise_do_not_join_a_curve(
    both: Path, cache: Path, tmp_path: Path, words: list[str], named: str
) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text((both.parents[2] / "runs/data/test.jsonl").read_text())
    words = [word.replace("FILE", str(other)) for word in words]
    before = both.read_text()
    with pytest.raises(InputError, match=f"scored with other {named}: give another results_dir"):
        run(both.parents[2], cache, "sweep=cap", "sweep.values=[2]", *words)
    assert both.read_text() == before


def test_a_sweep_scores_no_test_pair_before_the_freeze(tmp_path: Path, cache: Path) -> None:
    words = ["+experiment.name=confirmatory", "+experiment.freeze=null", "sweep=cap"]
    with pytest.raises(InputError, match="is not set: no test pair may be scored"):
        run(tmp_path, cache, *words)
    assert not [*(tmp_path / "runs").rglob("metrics.jsonl")]
