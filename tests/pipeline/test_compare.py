"""Comparing evaluations on the same pairs: two checkpoints, several seeds, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from eval import crossed, pairs, rewardbench, statistics
from eval.protocol import outcomes
from pipeline.run.comparison import compare
from pipeline.settings.configuration import compose_config
from rm.errors import InputError
from scripts import compare as command

SUBSETS = {"sums": "numbers", "powers": "numbers", "greetings": "words"}


def scored(right: list[bool], *, content: str = "text", start: int = 0) -> pd.DataFrame:
    """Pairs in turn of the three subsets of SUBSETS; a pair that is right has the reward 1 : 0."""
    names = [list(SUBSETS)[n % 3] for n in range(len(right))]
    return pd.DataFrame(
        {
            "pair_id": [str(start + n) for n in range(len(right))],
            "subset": names,
            "section": [SUBSETS[name] for name in names],
            "cluster": "",
            "content": [f"{content} {n}" for n in range(len(right))],
            "reward_chosen": np.array(right, dtype=float),
            "reward_rejected": 1 - np.array(right, dtype=float),
        }
    )


def write(folder: Path, scores: pd.DataFrame, benchmark: str = "generated") -> Path:
    """Write what compare reads of an evaluation."""
    folder.mkdir(parents=True)
    scores.to_parquet(folder / "scores.parquet")
    summary = (
        rewardbench.summarize(scores)
        if benchmark == "rewardbench"
        else pairs.summarize(scores, "generated")
    )
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "manifest.json").write_text(json.dumps({"inputs": {"benchmark": benchmark}}))
    return folder


def draw(share: float, seed: int, count: int = 120) -> list[bool]:
    return (np.random.default_rng(seed).random(count) < share).tolist()


def run(tmp_path: Path, a: object, b: object) -> tuple[str, pd.DataFrame]:
    words = [f"a={named(a)}", f"b={named(b)}", f"output={tmp_path / 'out'}", "resamples=300"]
    text = compare(compose_config("compare", words))
    assert (tmp_path / "out/comparison.md").read_text() == text
    return text, pd.read_csv(tmp_path / "out/comparison.csv").set_index("name")


def named(side: object) -> str:
    return f"[{','.join(map(str, side))}]" if isinstance(side, list) else str(side)


# --- two checkpoints ----------------------------------------------------------------------------


def test_two_checkpoints(tmp_path: Path) -> None:
    first, second = scored(draw(0.5, 0)), scored(draw(0.8, 1))
    a, b = write(tmp_path / "a", first), write(tmp_path / "b", second)
    text, table = run(tmp_path, a, b)
    assert table.index.tolist() == ["numbers", "words", "average"]
    for name, row in table.iterrows():
        mine = first["section"] == name if name != "average" else first["section"] != ""
        x, y = (f.loc[mine, "reward_chosen"].to_numpy() for f in (first, second))
        test = statistics.mcnemar(x, y)
        assert (row["n01"], row["n10"]) == (test.n01, test.n10)
        assert row["p_mcnemar"] == pytest.approx(test.p)
        assert row["low"] <= row["difference"] <= row["high"]
        assert row["a_low"] <= row["a"] <= row["a_high"]
        assert row["difference"] == pytest.approx(row["b"] - row["a"])
        assert (row["pairs"], row["seeds"]) == (mine.sum(), 1)
    assert table["p_holm"].tolist() == pytest.approx(statistics.holm(table["p_mcnemar"]))
    assert table["p_cluster_holm"].tolist() == pytest.approx(statistics.holm(table["p_cluster"]))
    assert table.loc["average", "p_cluster"] < 0.05
    for words in ("120 pairs, 1 seed", "paired bootstrap", "McNemar", "Holm", "300 resamples"):
        assert words in text
    assert text.splitlines()[-1].startswith("| average | ")


def test_the_same_evaluation_twice_differs_in_nothing(tmp_path: Path) -> None:
    a = write(tmp_path / "a", scored(draw(0.6, 0)))
    _, table = run(tmp_path, a, a)
    assert (table["difference"] == 0).all() and (table[["low", "high"]] == 0).all(axis=None)
    assert (table[["p_mcnemar", "p_cluster", "p_holm"]] == 1).all(axis=None)


def test_unlike_scoring_is_said(tmp_path: Path) -> None:
    a, b = (write(tmp_path / name, scored(draw(0.6, 0))) for name in "ab")
    for folder, length in ((a, 384), (b, 40)):
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["scoring"] = {"max_length": length, "compute_dtype": "float32"}
        (folder / "manifest.json").write_text(json.dumps(manifest))
    text, _ = run(tmp_path, a, b)
    assert "- scored with unlike max_length: 384, 40\n" in text and "compute_dtype" not in text


def test_partial_sections_are_marked(tmp_path: Path) -> None:
    scores = scored(draw(0.5, 0)).assign(subset="hep-go", section="Reasoning")
    a = write(tmp_path / "a", scores, "rewardbench")
    text, _ = run(tmp_path, a, write(tmp_path / "b", scores, "rewardbench"))
    assert "| Reasoning (partial) |" in text and "| average (partial) |" in text
    assert "hep-go has 120 of 164 rows" in text and "missing subset math-prm" in text


# --- several seeds ------------------------------------------------------------------------------


def test_several_seeds(tmp_path: Path) -> None:
    shares = {"a": (0.50, 0.55, 0.6, 0.52), "b": (0.7, 0.75, 0.72, 0.8)}
    frames = {
        side: [scored(draw(share, 10 * n + (side == "b"))) for n, share in enumerate(values)]
        for side, values in shares.items()
    }
    a, b = (
        [write(tmp_path / f"{side}{n}", frame) for n, frame in enumerate(frames[side])]
        for side in ("a", "b")
    )
    text, table = run(tmp_path, a, b)
    averages = {
        side: [pairs.summarize(frame, "generated")["average"] for frame in group]
        for side, group in frames.items()
    }
    row = table.loc["average"]
    assert row["a"] == pytest.approx(np.mean(averages["a"]))
    assert row["difference"] == pytest.approx(np.mean(averages["b"]) - np.mean(averages["a"]))
    assert row["low"] < row["difference"] < row["high"] and (table["seeds"] == 4).all()
    apart = np.array(averages["b"]) - np.array(averages["a"])
    assert row["seed_p"] == pytest.approx(stats.ttest_1samp(apart, 0).pvalue)
    assert table["p_holm"].tolist() == pytest.approx(statistics.holm(table["p"]))
    seeds = [outcomes(frame, n) for n, frame in enumerate(frames["a"])]
    protocol = pairs.protocol(frames["a"][0], "generated")
    own = crossed.intervals(pd.concat(seeds), protocol).set_index("name")
    assert row["a_low"] == pytest.approx(own.loc["average", "low"])
    assert "p_mcnemar" not in table
    for words in ("4 seeds per side", "crossed random effects", "t over the 4 seeds, for these"):
        assert words in text


def test_a_subset_of_one_pair_has_no_interval(tmp_path: Path) -> None:
    scores = scored(draw(0.5, 0, count=30))
    scores.loc[2, ["subset", "section"]] = "alone"
    a, b = ([write(tmp_path / f"{s}{n}", scores) for n in range(2)] for s in "ab")
    text, table = run(tmp_path, a, b)
    assert table.loc[["alone", "average"], "low"].isna().all()
    assert (table.loc[["numbers", "words"], ["low", "high"]] == 0).all(axis=None)
    assert "+0.0 [none] | none (none) | [+0.0, +0.0]" in text


# --- what is refused ----------------------------------------------------------------------------


def test_unlike_evaluations_are_refused(tmp_path: Path) -> None:
    base = scored(draw(0.5, 0))
    a = write(tmp_path / "a", base)
    others = {
        "ids": (scored(draw(0.5, 0), start=2), "2 pairs are in .*/a and not in .*/ids: 0, 1"),
        "texts": (scored(draw(0.5, 0), content="other"), "120 pairs have other texts in .*/texts"),
        "old": (base.drop(columns="content"), "lacks the fingerprints of its texts"),
    }
    for name, (scores, message) in others.items():
        with pytest.raises(InputError, match=message):
            run(tmp_path, a, write(tmp_path / name, scores))
    other = write(tmp_path / "rb", base.assign(subset="hep-go"), "rewardbench")
    with pytest.raises(InputError, match=r"is of benchmark generated, .*/rb of rewardbench"):
        run(tmp_path, a, other)


def test_missing_and_unfinished_evaluations_are_refused(tmp_path: Path) -> None:
    a, b = (write(tmp_path / name, scored(draw(0.5, 0))) for name in "ab")
    with pytest.raises(InputError, match=r"nowhere holds no finished evaluation \(no scores"):
        run(tmp_path, a, tmp_path / "nowhere")
    (b / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"\(no manifest.json\): run scripts.evaluate with output"):
        run(tmp_path, a, b)
    (b / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        run(tmp_path, a, b)
    (b / "manifest.json").write_text(json.dumps({"inputs": {"benchmark": "rm_bench"}}))
    with pytest.raises(InputError, match="scored by item; compare takes rewardbench, judgebench"):
        run(tmp_path, a, b)


def test_damaged_evaluations_are_refused(tmp_path: Path) -> None:
    a, b = (write(tmp_path / name, scored(draw(0.5, 0))) for name in "ab")
    manifest = json.loads((b / "manifest.json").read_text())
    noted = {"outputs": {"scores.parquet": "0" * 64}}
    (b / "manifest.json").write_text(json.dumps({**manifest, **noted}))
    with pytest.raises(InputError, match=r"scores\.parquet has changed since it was written"):
        run(tmp_path, a, b)
    (b / "manifest.json").write_text("[]")
    with pytest.raises(InputError, match="cannot be read"):
        run(tmp_path, a, b)


@pytest.mark.parametrize("word", ["resamples=abc", "resamples=0", "seed=-1", "level=2", "a=3"])
def test_options_that_are_none_are_refused(tmp_path: Path, word: str) -> None:
    a, b = (write(tmp_path / name, scored(draw(0.5, 0))) for name in "ab")
    words = [f"a={a}", f"b={b}", f"output={tmp_path}/out", word]
    with pytest.raises(InputError):
        compare(compose_config("compare", words))


def test_seeds_that_do_not_pair_are_refused(tmp_path: Path) -> None:
    a, b = (write(tmp_path / name, scored(draw(0.5, 0))) for name in "ab")
    with pytest.raises(InputError, match="a has 2 evaluations, b has 1"):
        run(tmp_path, [a, b], [b])
    with pytest.raises(InputError, match="a names a folder twice"):
        run(tmp_path, [a, a], [b, b])
    with pytest.raises(InputError, match="a is empty"):
        run(tmp_path, [], [b])


def test_the_command_prints_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = (write(tmp_path / name, scored(draw(0.5, 0))) for name in "ab")
    monkeypatch.setattr(sys, "argv", ["compare", f"a={a}", f"b={b}", f"output={tmp_path}/out"])
    command.main()
    assert "section  a % [95% interval]  b % [95% interval]" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["compare", f"a={a}"])
    with pytest.raises(SystemExit) as stop:
        command.main()
    assert stop.value.code == 2
