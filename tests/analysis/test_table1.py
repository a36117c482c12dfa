"""Table 1 from hand-made scores."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import gallery, table1, table4, table5
from eval import crossed, rewardbench, strata
from rm.errors import InputError

SECTIONS = ("Chat", "Chat Hard", "Safety", "Reasoning")


def scores(right: dict[str, dict[str, int]], pairs: int = 10, seeds: int = 2) -> pd.DataFrame:
    """`right[method][section]` of `pairs` pairs are right, in every seed; else all are."""
    rows = [
        {
            **{"method": method, "backbone": "tiny", "data": "made", "benchmark": "generated"},
            **{"seed": seed, "pair_id": f"{section}/{i}", "subset": f"{section}-sub"},
            **{"section": section, "distance": 1.0, "reward_rejected": 0.5},
            "reward_chosen": 1.0 if i < wins.get(section, pairs) else 0.5,
        }
        for method, wins in right.items()
        for seed in range(1 if method == "untrained" else seeds)
        for section in SECTIONS
        for i in range(pairs)
    ]
    return pd.DataFrame(rows)


def collected(tmp_path: Path, frame: pd.DataFrame) -> pd.DataFrame:
    frame.to_parquet(tmp_path / "scores.parquet")
    return table1.collect(tmp_path)


RIGHT = {
    "normbt": {"Reasoning": 9, "Chat": 6},
    "bt": {"Reasoning": 5, "Chat": 8},
    "untrained": {},
}


def test_sections_average_and_order(tmp_path: Path) -> None:
    table = table1.build(collected(tmp_path, scores(RIGHT)), resamples=200)
    assert table["method"].tolist() == ["bt", "normbt"]  # no row for the untrained random head
    bt = table.iloc[0]
    assert bt[["chat", "chat_hard", "safety", "reasoning"]].tolist() == [80, 100, 100, 50]
    assert bt["average"] == pytest.approx(82.5)
    assert (bt["seeds"], bt["pairs"]) == (2, 40)
    assert bt["chat_hard_low"] == bt["chat_hard_high"] == 100
    assert bt["reasoning_low"] < 50 < bt["reasoning_high"]
    names = ["method", "backbone", "data", "benchmark", "seeds"]
    for cell in ("chat", "chat_hard", "safety", "reasoning", "average"):
        names += [cell, f"{cell}_low", f"{cell}_high"]
    assert list(table) == [*names, "pairs"]


def test_truncated_pairs_are_counted_once_and_said_by_section(tmp_path: Path) -> None:
    frame = scores(RIGHT)
    assert table1.truncated_note(collected(tmp_path, frame)) == ""
    cut = frame["pair_id"].isin(["Chat/0", "Chat/1", "Safety/9"]) & (frame["method"] != "bt")
    collected(tmp_path, frame.assign(truncated=cut))
    table1.write(tmp_path, tmp_path / "tables")
    for name in ("table1", "table1_differences"):
        text = (tmp_path / "tables" / f"{name}.md").read_text()
        assert "3 of 40 test pairs are truncated (Chat 20%, Safety 10%)." in text
    table4.write(tmp_path, tmp_path / "tables")
    assert "3 of 40 test pairs are truncated" in (tmp_path / "tables/table4.md").read_text()
    swept = frame.assign(truncated=cut, parameter="beta", value=0.5)
    swept.to_parquet(tmp_path / "sweep_scores.parquet")
    table5.write(tmp_path, tmp_path / "tables")
    assert "3 of 40 test pairs are truncated" in (tmp_path / "tables/table5.md").read_text()


def test_interval_is_the_bootstrap_of_a_proportion(tmp_path: Path) -> None:
    frame = collected(tmp_path, scores({"bt": {"Safety": 50}}, pairs=100, seeds=1))
    row = table1.build(frame, resamples=2000).iloc[0]
    assert row["safety_low"] == pytest.approx(50 - 9.8, abs=1.1)
    assert row["safety_high"] == pytest.approx(50 + 9.8, abs=1.1)


def test_paired_differences(tmp_path: Path) -> None:
    frame = collected(tmp_path, scores(RIGHT | {"bt_margin": {}, "normbt_hinge": {}}))
    found = table1.differences(frame, resamples=500)
    assert found[["method", "minus"]].values.tolist() == [
        ["normbt", "bt"],
        ["normbt_hinge", "bt"],
    ]
    row = found.iloc[0]
    assert row[["chat", "safety", "reasoning"]].tolist() == pytest.approx([-20, 0, 40])
    assert row["average"] == pytest.approx(5.0)
    assert row["safety_low"] == row["safety_high"] == 0
    assert 0 < row["reasoning_low"] < 40 < row["reasoning_high"]


def test_differences_are_marked_where_holms_adjustment_leaves_them(tmp_path: Path) -> None:
    """Of 100 pairs; a p-value is at least 2 / 2001, and three rows are compared."""
    right = {"bt": 50, "normbt": 90, "normbt_cap": 58, "hinge": 50}
    frame = collected(tmp_path, scores({key: {"Chat": n} for key, n in right.items()}, pairs=100))
    table = table1.adjusted(table1.differences(frame))
    assert table["method"].tolist() == ["normbt", "hinge", "normbt_cap"]
    raw, holm = table["chat_p"].to_numpy(), table["chat_holm"].to_numpy()
    assert holm == pytest.approx([min(1, 3 * raw[0]), 1, max(2 * raw[2], 3 * raw[0])])
    assert raw[1] == 1 and raw[0] == pytest.approx(2 / 2001)
    assert (table["safety_holm"] == 1).all()
    table1.write(tmp_path, tmp_path / "tables")
    text = (tmp_path / "tables/table1_differences.md").read_text()
    (row,) = [line for line in text.splitlines() if line.startswith("| NormBT | BT |")]
    assert row.count("†") == 2 and "40.0 [" in row  # Chat and the average
    assert "holm" not in text and "after Holm's adjustment" in text
    assert r"\dag{}" in (tmp_path / "tables/table1_differences.tex").read_text()
    csv = pd.read_csv(tmp_path / "tables/table1_differences.csv")
    assert csv["chat_holm"].tolist() == pytest.approx(holm, abs=1e-4)
    two = pd.concat([frame, frame.assign(data="other")])  # each data set's rows by themselves
    assert table1.adjusted(table1.differences(two))["chat_holm"].tolist() == pytest.approx(
        [*holm, *holm]
    )


def test_every_method_has_the_base_that_the_caption_says(tmp_path: Path) -> None:
    methods = ["bt", "bt_margin", "normbt", "normbt_margin", "normbt_cosine", "clip", "mlp"]
    methods += [
        "normbt_mlp",
        "exponential",
        "normbt_exponential",
    ]  # the last two: docs/extending.md
    frame = collected(tmp_path, scores({key: {} for key in methods}))
    found = table1.differences(frame, resamples=10)
    assert dict(found[["method", "minus"]].values.tolist()) == {
        **{"normbt": "bt", "normbt_margin": "bt_margin", "normbt_cosine": "bt"},
        **{"clip": "bt", "mlp": "bt", "normbt_mlp": "mlp"},
        **{"exponential": "bt", "normbt_exponential": "exponential"},
    }


def test_a_variant_without_its_own_base_is_not_compared_with_bt(tmp_path: Path) -> None:
    methods = ["bt", "normbt", "normbt_margin", "normbt_label_smoothing", "normbt_cosine"]
    found = table1.differences(collected(tmp_path, scores({key: {} for key in methods})), 10)
    assert found["method"].tolist() == ["normbt", "normbt_cosine"]


def test_without_bt_nothing_is_compared_with_it(tmp_path: Path) -> None:
    methods = ["bt_margin", "normbt", "clip", "normbt_margin"]
    found = table1.differences(collected(tmp_path, scores({key: {} for key in methods})), 10)
    assert found[["method", "minus"]].values.tolist() == [["normbt_margin", "bt_margin"]]


def test_differences_are_taken_pair_by_pair_not_between_averages(tmp_path: Path) -> None:
    """The same accuracy on other pairs: no difference, but an interval that is not a point."""
    frame = scores({"bt": {"Chat": 5}, "normbt": {"Chat": 5}})
    chat = (frame["method"] == "normbt") & (frame["section"] == "Chat")
    frame.loc[chat, "reward_chosen"] = 1.5 - frame.loc[chat, "reward_chosen"]
    row = table1.differences(collected(tmp_path, frame), resamples=500).iloc[0]
    assert row["chat"] == 0 and row["chat_low"] < -20 and row["chat_high"] > 20


def test_differences_refuse_unlike_pairs(tmp_path: Path) -> None:
    frame = scores(RIGHT)
    gone = (frame["method"] == "bt") & (frame["pair_id"] == "Chat/0")
    with pytest.raises(InputError, match="no counterpart"):
        table1.differences(collected(tmp_path, frame[~gone]), resamples=10)


def test_rewardbench_has_its_official_weights(tmp_path: Path) -> None:
    """math-prm weighs as much as the six hep-* sets together, whatever the row counts."""
    frame = scores({"bt": {}}, pairs=12, seeds=1).assign(benchmark="rewardbench")
    names = {"Chat": "mt-bench-easy", "Chat Hard": "mt-bench-hard", "Safety": "donotanswer"}
    frame["subset"] = frame["section"].map(names)
    reasoning = np.flatnonzero(frame["section"] == "Reasoning")
    hep = [f"hep-{language}" for language in ("cpp", "go", "java", "js", "python", "rust")]
    frame.loc[reasoning, "subset"] = hep + ["math-prm"] * 6
    frame.loc[frame["subset"] == "math-prm", "reward_chosen"] = 0.0
    frame = pd.concat([frame, frame[frame["subset"] == "math-prm"].assign(pair_id=list("abcdef"))])
    row = table1.build(collected(tmp_path, frame), resamples=20).iloc[0]
    assert row["reasoning"] == pytest.approx(50)


def rewardbench_rows(rows: dict[str, int], method: str = "bt") -> pd.DataFrame:
    """One run of RewardBench with as many rows of a subset as `rows` says, all right."""
    made = scores({method: {}}, pairs=sum(rows.values()), seeds=1)
    made = made[made["section"] == "Chat"].assign(benchmark="rewardbench")
    subsets = [name for name, count in rows.items() for _ in range(count)]
    sections = [rewardbench.PROTOCOL.section_of(name) for name in subsets]
    return made.assign(subset=subsets, section=sections)


def test_a_partial_rewardbench_is_said_under_every_table(tmp_path: Path) -> None:
    rows = {**rewardbench.ROWS, "refusals-dangerous": 83, "donotanswer": 135}
    collected(tmp_path, pd.concat([rewardbench_rows(rows, name) for name in ("bt", "normbt")]))
    said = (
        " RewardBench is partial here (Safety: refusals-dangerous has 83 of 100 rows, donotanswer "
        "has 135 of 136 rows)."
    )
    paths = table1.write(tmp_path, tmp_path / "out")
    captions = [p.read_text().split("\n")[0] for p in paths if p.suffix == ".md"]
    assert len(captions) == 3 and all(caption.endswith(said) for caption in captions)


def test_what_one_run_lacks_is_said_and_what_a_whole_set_or_another_has_is_not(
    tmp_path: Path,
) -> None:
    whole = rewardbench_rows(rewardbench.ROWS)
    assert table1.partial_note(collected(tmp_path, whole)) == ""
    assert table1.partial_note(collected(tmp_path, scores(RIGHT))) == ""
    few = rewardbench_rows({"mt-bench-easy": 28, "hep-go": 3}, "normbt")
    assert table1.partial_note(collected(tmp_path, pd.concat([whole, few]))) == (
        " RewardBench is partial here (Chat: missing subset alpacaeval-easy, missing subset "
        "alpacaeval-length, missing subset alpacaeval-hard, missing subset mt-bench-med; "
        "Chat Hard: no rows: left out of the average; Safety: no rows: left out of the average; "
        "Reasoning: missing subset math-prm, missing subset hep-cpp, hep-go has 3 of 164 rows, "
        "missing subset hep-java, 3 more)."
    )


def test_a_section_that_is_absent_is_empty_not_zero(tmp_path: Path) -> None:
    frame = scores(RIGHT)
    table = table1.build(collected(tmp_path, frame[frame["section"] == "Chat"]), resamples=50)
    assert table["reasoning"].isna().all()
    assert table["average"].tolist() == table["chat"].tolist() == [80, 60]


def test_nothing_to_show_says_why(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no trained method"):
        collected(tmp_path, scores({"untrained": {}}))
    with pytest.raises(InputError, match="no trained method"):
        collected(tmp_path, scores(RIGHT).assign(section="Math"))
    with pytest.raises(InputError, match="is missing"):
        table1.collect(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="has no rows"):
        table1.build(pd.DataFrame(columns=table1.COLUMNS))


def test_paper_numbers_are_those_of_the_paper_and_nothing_else() -> None:
    paper = pd.read_csv(table1.PAPER).set_index(["backbone", "data", "method"])
    assert paper.loc[("gemma-2b-it", "Unified-Feedback", "normbt"), "reasoning"] == 80.71
    assert paper.loc[("Llama-3.2-3B-Instruct", "Skywork-80K", "bt"), "average"] == 80.31
    assert paper["chat"].isna().all()  # never reported to us
    assert paper[["chat_hard", "safety"]].notna().sum().tolist() == [2, 2]
    assert paper["reasoning"].notna().sum() == 9 and paper["average"].notna().sum() == 9


def test_write_makes_three_tables_each_with_the_note(tmp_path: Path) -> None:
    collected(tmp_path, scores(RIGHT))
    paths = table1.write(tmp_path, tmp_path / "tables", "tiny · made pairs · 2 seeds")
    assert sorted(p.name for p in paths) == sorted(
        f"{stem}.{kind}"
        for stem in ("table1", "table1_differences", "table1_paper")
        for kind in ("csv", "md", "tex")
    )
    shown = {p.name: p.read_text() for p in paths}
    assert all("tiny · made pairs" in text for name, text in shown.items() if name.endswith("md"))
    assert "| NormBT | tiny | made | generated | 2 | 60.0 [" in shown["table1.md"]
    assert "(a rival or control: minus BT)" in shown["table1_differences.md"]
    beside = shown["table1_paper.md"]
    assert "another scale" in beside
    assert (
        "| paper | gemma-2b-it | Skywork-80K | rewardbench | BT |  |  |  | 77.46 | 78.63 |"
        in beside
    )
    assert "| this repository | tiny | made | generated | BT | 80.00 [" in beside
    first = [p.read_bytes() for p in paths]
    assert first == [
        p.read_bytes()
        for p in table1.write(tmp_path, tmp_path / "tables", "tiny · made pairs · 2 seeds")
    ]


def unlike_seeds() -> pd.DataFrame:
    """Three seeds of two methods whose wins differ by seed and pair."""
    frame = scores(RIGHT, seeds=3)
    lucky = (frame["seed"] * 7 + frame["pair_id"].str[-1].astype(int)) % 4 == 0
    return frame.assign(reward_chosen=frame["reward_chosen"].where(~lucky, 1.0))


def test_crossed_intervals_stand_beside_those_over_seeds(tmp_path: Path) -> None:
    frame = collected(tmp_path, unlike_seeds())
    table = table1.build(frame, crossed=True)
    protocol = table1.protocol_of("generated", frame)
    found = crossed.intervals(frame[frame["method"] == "bt"], protocol).set_index("name")
    bt, reasoning = table.iloc[0], found.loc["Reasoning"]
    for ending in ("low", "high", "seed_low", "seed_high"):
        assert bt[f"reasoning_{ending}"] == pytest.approx(100 * reasoning[ending])
    assert bt["reasoning_low"] < bt["reasoning"] > bt["reasoning_seed_low"] != bt["reasoning_low"]
    both = strata.paired(*(frame[frame["method"] == name] for name in ("normbt", "bt")))
    apart = table1.differences(frame, crossed=True).iloc[0]
    expected = crossed.intervals(both, protocol).set_index("name").loc["Reasoning"]
    assert apart["reasoning_p"] == pytest.approx(expected["p"])
    assert apart["reasoning"] == pytest.approx(100 * expected["mean"])
    with pytest.raises(InputError, match="two or more seeds"):
        table1.build(frame[frame["seed"] == 0], crossed=True)


def test_the_manifest_asks_for_both_intervals(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    collected(tmp_path / "data", unlike_seeds())
    manifest = {"label": "n", "runs": [], "profile": "cpu"}
    for asked in ({}, {"intervals": "crossed"}):
        (tmp_path / "manifest.json").write_text(json.dumps(manifest | asked))
        item = gallery.draw_one("table1", tmp_path, "n")
        assert not item.missing
        text = (tmp_path / "tables" / "table1_differences.md").read_text()
        columns = pd.read_csv(tmp_path / "tables" / "table1.csv").columns
        assert ("Parentheses: 95% interval for new seeds" in text) == bool(asked)
        assert ("reasoning_seed_high" in columns) == bool(asked)
    row = next(line for line in text.split("\n") if line.startswith("| NormBT"))
    assert re.search(r"\| [−\d.]+ \[[−\d.]+, [−\d.]+\] \([−\d.]+, [−\d.]+\)( †)? \|", row)


def test_baselines_stand_in_the_last_rows(tmp_path: Path) -> None:
    frame = collected(tmp_path, scores(RIGHT))
    table = table1.build(frame, resamples=50)
    assert table1.baseline_rows(tmp_path, table).empty
    rows = [
        {"baseline": name, "level": level, "name": section, "accuracy": 50.0 + k, "low": 45.0}
        for name in ("n-grams", "length")
        for k, (level, section) in enumerate(
            [("subset", "Chat"), *(("section", s) for s in SECTIONS), ("average", "average")]
        )
    ]
    found = pd.DataFrame(rows).assign(high=60.0, pairs=10, trained_on=9)
    found.to_csv(tmp_path / "baselines.csv", index=False)
    below = table1.baseline_rows(tmp_path, table)
    assert below["method"].tolist() == ["n-grams (baseline)", "length (baseline)"]
    assert below.iloc[0][["chat", "reasoning", "average"]].tolist() == [51, 54, 55]
    assert (below["pairs"] == 40).all() and (below["backbone"] == "none").all()
    table1.write(tmp_path, tmp_path / "tables")
    text = (tmp_path / "tables/table1.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert lines[-1].startswith("| length (baseline) | none |") and "51.0 [45.0, 60.0]" in lines[-1]
    assert "| 2 |" in lines[2] and "read no prompt" in text
    assert "baseline" not in (tmp_path / "tables/table1_differences.md").read_text()
