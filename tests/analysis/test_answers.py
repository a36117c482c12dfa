"""README's table of answers, from hand-made verdicts."""

from pathlib import Path

import pytest

from analysis import answers, claims
from analysis.claims import NOT_RUN, Judged, Measured
from eval.crossed import Student
from eval.verdicts import EQUIVALENT, INCONCLUSIVE, NOT_TESTABLE, SUPPORTED, Margins


def judged(
    verdict: str,
    measured: Measured | None,
    unit: str = "points",
    reason: str = "",
    margin: float | None = None,
) -> Judged:
    words = dict.fromkeys(("id", "kind", "text", "where", "paper", "says"), "w")
    claim = claims.Claim(**words, measure={}, margins=Margins(equivalent=margin), unit=unit)
    return Judged(claim, measured, verdict, reason)


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (
            judged(SUPPORTED, Measured(Student(4.25, 1, 1e9), "", sides=(75.25, 79.5))),
            "75.2 → 79.5: +4.2 [2.3, 6.2], supported",
        ),
        (
            judged(INCONCLUSIVE, Measured(Student(-1, 1, 1e9), "")),
            "−1.0 [−3.0, 1.0], inconclusive",
        ),
        (
            judged(SUPPORTED, Measured(Student(2, 0.1, 1e9), ""), unit="ratio"),
            "2.00 [1.80, 2.20] (ratio), supported",
        ),
        (
            judged(NOT_TESTABLE, Measured(Student(4, 1, 9), ""), reason="BT reaches 52.0%"),
            "not testable: BT reaches 52.0%",
        ),
        (judged(NOT_RUN, None), "–"),
        (
            judged(EQUIVALENT, Measured(Student(1, 1, 1e9), ""), margin=4),
            "+1.0 [−1.0, 3.0], equivalent (within ±4)",
        ),
    ],
)
def test_a_cell_is_effect_interval_and_verdict(one: Judged, text: str) -> None:
    assert answers.cell(one, {}) == text


def test_a_section_that_bt_has_not_learned_stands_beside_the_length_alone(tmp_path: Path) -> None:
    rows = (
        "baseline,level,name,accuracy\nlength,section,Chat,79.9\nlength,section,Chat Hard,29.64\n"
    )
    rows += "length,subset,alpacaeval-easy,1\nn-grams,section,Chat,1\n"
    (tmp_path / "baselines.csv").write_text(rows)
    length = answers.by_length(tmp_path)
    assert length == {"chat": 79.9, "chat_hard": 29.64}
    reason = "BT reaches 34.3% on Chat Hard (benchmark), 60 asked for"
    one = judged(NOT_TESTABLE, Measured(Student(4, 1, 9), ""), reason=reason)
    assert answers.cell(one, length) == f"not testable: {reason}; length alone: Chat Hard 29.6%"
    assert answers.by_length(tmp_path / "other") == {}


def test_the_table_has_the_claims_with_a_question_in_their_order(tmp_path: Path) -> None:
    table = answers.build(tmp_path)
    asked = [one.question for one in claims.read_claims().claims if one.question]
    assert table["question"].tolist() == asked and 5 <= len(asked) <= 9
    assert list(table) == ["question", "kind", "paper", "generated", "gemma", "real"]
    assert (table[["generated", "gemma", "real"]] == "–").all(axis=None)


def test_an_experiment_that_lacks_planned_runs_says_so(tmp_path: Path) -> None:
    (tmp_path / "confirmatory.yaml").write_text("methods: [bt, normbt]\nseeds: [0, 1]\n")
    (tmp_path / "replication.yaml").write_text("defaults: [confirmatory]\nseeds: [0]\n")
    runs = [{"method": method, "seed": seed} for method in ("bt", "normbt") for seed in (0, 1)]
    manifest = {"freeze": {}, "command": "x matrix=confirmatory", "runs": runs}
    assert answers.interim(manifest, tmp_path) == ""
    assert answers.interim({"runs": []}, tmp_path) == ""
    early = answers.interim(manifest | {"runs": runs[:3]}, tmp_path)
    assert early.startswith("Interim: 3 of the 4 planned runs are done.")
    other = manifest | {"command": "x matrix=replication", "runs": runs[:1]}
    assert answers.interim(other, tmp_path).startswith("Interim: 1 of the 2 planned")
