"""Claims and their verdicts, from hand-made files."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from analysis import claims, figure5
from analysis.claims import NOT_RUN, Claim, Claims, Measured, Stated
from eval import crossed, strata
from eval.crossed import Student
from eval.verdicts import (
    EQUIVALENT,
    INCONCLUSIVE,
    NOT_TESTABLE,
    REFUTED,
    SUPPORTED,
    Estimate,
    Margins,
)
from rm.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
GAIN = {"name": "gold_gain", "method": "normbt", "gold": "verifier"}
CLAIM = {
    **{"id": "x", "kind": "secondary", "text": "t", "where": "w", "paper": "p", "says": "s"},
    **{"measure": GAIN, "margins": {"supported": 0}},
}


def claim(name: str = "x", kind: str = "secondary", **more: object) -> Claim:
    margins = Margins(0, refuted=3.2, equivalent=4)
    found = {"text": "t", "where": "w", "paper": "p", "says": "s", "margins": margins}
    measure = {"name": "gold_gain", "method": name, "gold": "verifier"}
    return Claim(**{**found, "measure": measure, "id": name, "kind": kind, **more})  # type: ignore[arg-type]


def judged(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    numbers: dict[str, Measured],
    listed: Sequence[Claim],
) -> dict[str, claims.Judged]:
    monkeypatch.setitem(claims.MEASURES, "gold_gain", lambda data, method, gold: numbers[method])
    gates = {"validation": 62.0, "benchmark": 60.0}
    found = claims.judge_all(folder, Claims(tuple(listed), (), gates))
    return {one.claim.id: one for one in found}


def gradients(pairs: int = 40, follows: bool = True) -> pd.DataFrame:
    """Reasoning pairs are ten times closer; the gradient follows the distance, or is constant."""
    rng = np.random.default_rng(0)
    section = np.array(["Reasoning", "Safety"])[np.arange(pairs) % 2]
    distance = np.where(section == "Reasoning", 1.0, 10.0) * rng.uniform(0.9, 1.1, pairs)
    length = distance if follows else np.ones(pairs)
    difference = rng.normal(0, 0.01, pairs)
    error = 1 / (1 + np.exp(difference))
    return pd.DataFrame(
        {
            "method": "untrained",
            "seed": 0,
            "pair_id": [f"p{i}" for i in range(pairs)],
            "section": section,
            "distance": distance,
            "difference": difference,
            "error": error,
            "gradient_distance": 2 * length,
            "gradient_norm": 2 * error * length,
            "head_gradient_norm": error * distance,
            "weight": distance.mean() / distance,
        }
    )


@pytest.mark.parametrize(
    ("estimate", "pairs", "seeds", "verdict"),
    [
        (Student(5, 1, 9), 30, 3, SUPPORTED),
        (Student(-9, 1, 9), 30, 3, REFUTED),
        (Student(0, 1, 9), 30, 3, REFUTED),  # the upper bound is 1.8; equivalent too
        (Student(2, 1, 99), 30, 3, SUPPORTED),
        (Student(1.8, 1, 99), 30, 3, EQUIVALENT),  # the upper bound is 3.46
        (Student(1, 3, 9), 30, 3, INCONCLUSIVE),
        (Student(5, 1, 9), 30, 2, INCONCLUSIVE),  # too few seeds
        (Student(5, 0, 9), 29, 3, INCONCLUSIVE),  # too few pairs, however narrow
        (Student(5, 1, 9), None, None, SUPPORTED),  # rests on neither
        (Student(5, float("nan"), 9), 30, 3, INCONCLUSIVE),
    ],
)
def test_the_verdict_follows_the_margins(
    estimate: Estimate,
    pairs: int | None,
    seeds: int | None,
    verdict: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    number = Measured(estimate, "", pairs, seeds)
    found = judged(monkeypatch, tmp_path, {"x": number}, [claim()])["x"]
    assert found.verdict == verdict and found.measured == number and found.reason


def test_holms_correction_is_over_the_primary_claims_that_were_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """p = 0.03 each: after Holm 0.06 for two primary claims; a secondary one is not corrected."""
    number = Measured(Student(2.2009, 1.0, 1e9), "", 30, 3)  # two-sided p 0.0278
    names = {"a": "primary", "b": "primary", "c": "secondary"}
    listed = [claim(name, kind, margins=Margins(0)) for name, kind in names.items()]
    found = judged(monkeypatch, tmp_path, dict.fromkeys(names, number), listed)
    assert [found[name].verdict for name in names] == [INCONCLUSIVE, INCONCLUSIVE, SUPPORTED]
    assert found["a"].p_holm == pytest.approx(2 * 0.02775, abs=1e-3)
    assert "after Holm's correction" in found["a"].reason
    few = Measured(Student(2.2009, 1.0, 1e9), "", 30, 2)
    found = judged(monkeypatch, tmp_path, {"a": number, "b": few, "c": number}, listed)
    assert found["a"].verdict == SUPPORTED  # b was not tested


def test_an_interval_that_is_unknown_is_said() -> None:
    unknown = Measured(Stated(2.0, float("nan"), float("nan")), "", 30, 3)
    assert unknown.enough == "too few pairs for an interval"


def test_a_primary_claim_needs_a_standard_error_and_a_stated_interval_has_one_level(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    number = Measured(Stated(2, 1, 3), "", 30, 3)
    with pytest.raises(InputError, match="claim x is primary: its measure must have"):
        judged(monkeypatch, tmp_path, {"x": number}, [claim(kind="primary")])
    with pytest.raises(InputError, match="95% interval only"):
        judged(monkeypatch, tmp_path, {"x": number}, [claim()])
    margins = Margins(0, refuted=0, refuted_by="high")
    found = judged(monkeypatch, tmp_path, {"x": number}, [claim(margins=margins)])
    assert found["x"].verdict == SUPPORTED


def grid(reasoning: Sequence[float]) -> pd.DataFrame:
    """BT at two rates with two seeds each; the larger was chosen."""
    return pd.DataFrame(
        {
            "method": "bt",
            "learning_rate": [1e-4, 1e-4, 3e-4, 3e-4],
            "seed": [1000, 1001, 1000, 1001],
            "accuracy": 0.7,
            "reasoning": [0.9, 0.9, *reasoning],
            "chosen": [False, False, True, True],
        }
    )


def test_a_section_that_bt_has_not_learned_makes_its_claims_untestable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    number = Measured(Student(5, 1, 9), "", 30, 3)
    listed = [claim("a", gate=("reasoning",)), claim("b", gate=("chat",)), claim("c")]
    for reasoning, verdict in (((0.60, 0.63), NOT_TESTABLE), ((0.61, 0.63), SUPPORTED)):
        grid(reasoning).to_csv(tmp_path / "grid.csv", index=False)
        found = judged(monkeypatch, tmp_path, dict.fromkeys("abc", number), listed)
        assert [found[name].verdict for name in "abc"] == [verdict, SUPPORTED, SUPPORTED]
    grid((0.60, 0.63)).to_csv(tmp_path / "grid.csv", index=False)
    found = judged(monkeypatch, tmp_path, dict.fromkeys("abc", number), listed)
    assert found["a"].reason == "BT reaches 61.5% on Reasoning (validation), 62 asked for"
    assert found["a"].measured == number  # it is shown all the same


def test_without_a_grid_the_gate_is_bts_accuracy_on_the_benchmark(tmp_path: Path) -> None:
    scores(right=lambda method, i: i % 10 < (5 if i % 2 else 9)).to_parquet(
        tmp_path / "scores.parquet"
    )
    listed = Claims((), (), {"validation": 62, "benchmark": 60})
    found = claims.failed_gates(tmp_path, listed)
    assert found == {"chat": "BT reaches 40.0% on Chat (benchmark), 60 asked for"}
    assert claims.failed_gates(tmp_path / "nothing", listed) == {}


def test_what_the_data_lacks_is_not_run(tmp_path: Path) -> None:
    listed = claims.read_claims()
    found = claims.judge_all(tmp_path, listed)
    assert len(found) == len(listed.claims) and {one.verdict for one in found} == {NOT_RUN}
    assert all(one.reason and str(tmp_path) not in one.reason for one in found)


def test_the_claims_are_five_primary_ones_secondary_ones_and_identities_that_tests_show() -> None:
    listed = claims.read_claims()
    names = [one.id for one in (*listed.claims, *listed.identities)]
    assert len(names) == len(set(names))
    assert sum(one.kind == "primary" for one in listed.claims) == 5
    assert set(listed.gates) == {"validation", "benchmark"}
    for one in listed.identities:
        file, name = one.test.split("::")
        assert f"def {name}(" in (ROOT / file).read_text()


def test_the_methods_of_the_claims_are_those_of_the_confirmatory_experiment() -> None:
    """But for the moving average, which is repeated beside it."""
    run = yaml.safe_load((ROOT / "conf/matrix/confirmatory.yaml").read_text())["methods"]
    named = {
        one.measure[key]
        for one in claims.read_claims().claims
        for key in ("method", "minus")
        if key in one.measure
    }
    assert named - set(run) == {"normbt_no_ema"} and set(run) <= named


def test_damaged_data_are_no_claim_that_was_not_run(tmp_path: Path) -> None:
    gradients().assign(section="Chat").to_csv(tmp_path / "gradients.csv", index=False)
    (tmp_path / "scores.parquet").write_bytes(b"cut")
    with pytest.raises(InputError, match=r"scores\.parquet cannot be read"):
        claims.judge_all(tmp_path, claims.read_claims())


def test_claims_are_judged_on_one_backbone_data_set_and_benchmark() -> None:
    frame = pd.DataFrame({"backbone": ["a", "b"], "data": "d", "benchmark": "x"})
    assert len(claims.one_place(frame[:1])) == 1
    with pytest.raises(InputError, match="not a · d · x; b · d · x"):
        claims.one_place(frame)


@pytest.mark.parametrize(
    ("one", "words"),
    [
        ({"id": "a"}, "claim a lacks"),
        ({**CLAIM, "holds": "low > 0"}, "claim x has an unknown holds"),
        ({**CLAIM, "kind": "main"}, "claim x: kind main: choose primary, secondary or identity"),
        ({**CLAIM, "kind": "identity"}, "claim x lacks test, why"),
        ({**CLAIM, "measure": {"name": "luck"}}, "names no known measure"),
        ({**CLAIM, "measure": {**GAIN, "to": 1}}, "claim x, measure: .*unexpected keyword"),
        ({**CLAIM, "measure": {"name": "gold_gain", "gold": "verifier"}}, "missing a required"),
        ({**CLAIM, "measure": {**GAIN, "gold": "x"}}, "gold: x is none of verifier"),
        ({**CLAIM, "margins": {"low": 0}}, "claim x: margins: unknown low"),
        ({**CLAIM, "margins": {"equivalent": -1}}, "equivalent=-1: must be above 0"),
    ],
)
def test_claims_file_is_checked(one: dict[str, object], words: str, tmp_path: Path) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump({"gates": {}, "claims": [one]}))
    with pytest.raises(InputError, match=words):
        claims.read_claims(path)


def test_a_claims_file_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "claims.yaml").write_text("[")
    with pytest.raises(InputError, match="cannot be read"):
        claims.read_claims(tmp_path / "claims.yaml")


def test_measures_of_gradients(tmp_path: Path) -> None:
    frame = gradients()
    frame.to_csv(tmp_path / "gradients.csv", index=False)
    ratio = claims.median_ratio(tmp_path, "distance", "Reasoning")
    medians = frame.groupby("section")["distance"].median()
    assert ratio.estimate.value == pytest.approx(medians["Safety"] / medians["Reasoning"])
    assert 8 < ratio.low <= ratio.estimate.value <= ratio.high < 12 and ratio.pairs == 40
    assert ratio.basis == "40 pairs, 20 or more of each section"
    backbone = claims.proxy_correlation(tmp_path)
    assert backbone.estimate.value == pytest.approx(1)  # √(2² − 1) times the distance
    bt, ours = (claims.update_correlation(tmp_path, u) for u in ("bt", "normbt"))
    assert bt.low > 0.99 and abs(ours.estimate.value) < 0.5
    drop = claims.correlation_drop(tmp_path)
    apart = abs(bt.estimate.value) - abs(ours.estimate.value)
    assert drop.estimate.value == pytest.approx(apart) and drop.low > 0
    assert drop.basis.startswith("32 pairs; NormBT's own r ")  # 8 in the tails of d
    with pytest.raises(InputError, match="needs pairs of Chat"):
        claims.median_ratio(tmp_path, "distance", "Chat")


def test_the_proxy_leaves_the_score_head_out(tmp_path: Path) -> None:
    """The backbone's part does not follow the distance, the whole does."""
    frame = gradients()
    rng = np.random.default_rng(3)
    part = rng.uniform(0.5, 1.5, len(frame))
    whole = np.sqrt(part**2 + frame["distance"] ** 2)
    frame.assign(gradient_distance=whole).to_csv(tmp_path / "gradients.csv", index=False)
    found = claims.proxy_correlation(tmp_path)
    expected = np.corrcoef(frame["distance"], part)[0, 1]
    assert found.estimate.value == pytest.approx(expected, abs=1e-6) and abs(expected) < 0.4


def test_the_ratio_is_to_the_smallest_of_the_other_sections(tmp_path: Path) -> None:
    frame = gradients(60)
    frame["section"] = np.array(["Reasoning", "Safety", "Chat"])[np.arange(60) % 3]
    frame["distance"] = np.array([2.0, 8.0, 4.0])[np.arange(60) % 3]
    frame.to_csv(tmp_path / "gradients.csv", index=False)
    found = claims.median_ratio(tmp_path, "distance", "Reasoning")
    assert found.estimate.value == 4.0 / 2.0 and found.pairs == 60
    frame.assign(section="Reasoning").to_csv(tmp_path / "gradients.csv", index=False)
    with pytest.raises(InputError, match="and of another section"):
        claims.median_ratio(tmp_path, "distance", "Reasoning")


def test_a_weight_that_over_corrects_is_no_drop(tmp_path: Path) -> None:
    """BT's update grows with the distance, NormBT's falls with it as closely: nothing is gained."""
    over = gradients().assign(weight=lambda f: (20 - f["distance"]) / f["distance"])
    over.to_csv(tmp_path / "gradients.csv", index=False)
    bt, ours = (claims.update_correlation(tmp_path, u) for u in ("bt", "normbt"))
    assert bt.estimate.value > 0.99 and ours.estimate.value < -0.99
    drop = claims.correlation_drop(tmp_path)
    assert abs(drop.estimate.value) < 0.01 and max(abs(drop.low), abs(drop.high)) < 0.05
    assert "NormBT's own r −1.000" in drop.basis


def test_centred_correlation_is_pearsons_within_one_bin() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 30))
    one = claims.centred_correlation(np.ones((1, 30)), np.zeros(30), x, y)[0]
    assert one == pytest.approx(np.corrcoef(x, y)[0, 1])
    bins = np.repeat([0, 1], 15)
    two = claims.centred_correlation(np.ones((1, 30)), bins, x + 100 * bins, y + 100 * bins)[0]
    assert abs(two - one) < 0.3  # the jump between the bins does not count


def test_mean_weight_is_over_steps_then_seeds(tmp_path: Path) -> None:
    rows = [
        {"method": "normbt", "seed": seed, "step": step, "weight_mean": 1 + seed + step}
        for seed in (0, 1, 2)
        for step in (1, 3)
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "metrics.parquet")
    found = claims.mean_weight(tmp_path)
    assert found.estimate == Student(3.0, pytest.approx(3**-0.5), 2)  # 2, 3, 4 above 1
    with pytest.raises(InputError, match="no bt run"):
        claims.mean_weight(tmp_path, "bt")


def scores(right: object, seeds: int = 3, pairs: int = 80) -> pd.DataFrame:
    """Scores where `right(method, i)` says whether pair i is right; odd pairs are Chat's."""
    names = {0: "gen2-python-close", 1: "gen2-howto-far", 2: "gen2-python-far"}
    return pd.DataFrame(
        [
            {
                **{"method": method, "backbone": "b", "data": "d", "benchmark": "generated"},
                **{"seed": seed, "pair_id": f"p{i}", "distance": 1.0, "reward_rejected": 0.5},
                "subset": names[1 if i % 2 else i % 4],
                "section": "Chat" if i % 2 else "Reasoning",
                "reward_chosen": float(right(method, i)),  # type: ignore[operator]
            }
            for method in ("untrained", "bt", "normbt")
            for seed in range(1 if method == "untrained" else seeds)
            for i in range(pairs)
        ]
    )


def test_accuracy_difference_is_the_crossed_estimate_in_points(tmp_path: Path) -> None:
    frame = scores(right=lambda method, i: i < (60 if method == "normbt" else 40))
    frame.to_parquet(tmp_path / "scores.parquet")
    found = claims.accuracy_difference(tmp_path, "normbt", "bt", "reasoning")
    assert found.estimate.value == pytest.approx(25)  # pairs 40 to 59 of 80
    assert found.sides == pytest.approx((50, 75))
    assert (found.basis, found.pairs, found.seeds) == ("40 pairs × 3 seeds", 40, 3)
    frame["correct"] = (frame["reward_chosen"] > frame["reward_rejected"]).astype(float)
    own = frame[frame["section"] == "Reasoning"]
    both = strata.paired(own[own["method"] == "normbt"], own[own["method"] == "bt"])
    shares = both.drop_duplicates("pair_id")["subset"].value_counts(normalize=True)
    expected = crossed.estimate(both, shares.to_dict()).population
    low, high = expected.interval()
    assert (found.low, found.high) == pytest.approx((100 * low, 100 * high))
    average = claims.accuracy_difference(tmp_path, "normbt", "bt", "average")
    assert average.pairs == 80 and average.estimate.value == pytest.approx(25)
    clustered = frame.assign(cluster=[f"c{int(name[1:]) // 4}" for name in frame["pair_id"]])
    clustered.to_parquet(tmp_path / "scores.parquet")
    found = claims.accuracy_difference(tmp_path, "normbt", "bt", "reasoning")
    assert (found.basis, found.pairs) == ("40 pairs in 20 clusters × 3 seeds", 20)
    with pytest.raises(InputError, match="NormBT without EMA was not run"):
        claims.accuracy_difference(tmp_path, "normbt", "normbt_no_ema", "average")
    with pytest.raises(InputError, match="no Safety pairs"):
        claims.accuracy_difference(tmp_path, "normbt", "bt", "safety")


def test_one_seed_gives_a_number_and_no_verdict(tmp_path: Path) -> None:
    frame = scores(right=lambda method, i: i < (60 if method == "normbt" else 40), seeds=1)
    frame.to_parquet(tmp_path / "scores.parquet")
    found = claims.accuracy_difference(tmp_path, "normbt", "bt", "average")
    assert found.estimate.value == pytest.approx(25) and np.isnan(found.low) and found.enough


def test_close_minus_far_is_the_difference_of_the_two_gains(tmp_path: Path) -> None:
    """NormBT is right on all close pairs and on half of the far ones, BT on half of all."""
    half = {"bt": lambda i: i < 40, "normbt": lambda i: i < 40 or i % 4 == 0}
    frame = scores(right=lambda method, i: half.get(method, half["bt"])(i))
    frame.to_parquet(tmp_path / "scores.parquet")
    found = claims.close_minus_far(tmp_path, "normbt", "bt", "reasoning")
    assert found.estimate.value == pytest.approx(50)
    assert (found.basis, found.pairs) == ("40 pairs × 3 seeds", 40)
    with pytest.raises(InputError, match="no close and far pairs"):
        claims.close_minus_far(tmp_path, "normbt", "bt", "chat")


def test_gold_gain_is_the_paired_gain_at_the_largest_n(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not run in this profile"):
        claims.gold_gain(tmp_path, "normbt", "verifier")
    rows = [
        {
            **{"gold_kind": "verifier", "method": method, "seed": "all", "n": n},
            **{"kl": np.log(n) - (n - 1) / n, "proxy": 0.0, "gold": 0.0, "gold_low": 0.0},
            **{"gold_high": 0.0, "gain": gain, "gain_low": gain - 0.1, "gain_high": gain + 0.2},
            **{"prompts": 9, "samples": 16, "seeds": 3},
        }
        for n in (1, 4, 8, 16)
        for method, gain in (("bt", np.nan), ("normbt", {1: 0, 4: -0.5, 8: 0.25, 16: 1}[n]))
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "best_of_n.csv", index=False)
    found = claims.gold_gain(tmp_path, "normbt", "verifier")
    assert found == Measured(Stated(1.0, 0.9, 1.2), "n = 16, 9 prompts × 3 seeds", 9, 3)
    with pytest.raises(InputError, match="no NormBT beside its base"):
        claims.gold_gain(tmp_path, "normbt", "reward_model")


def test_a_gold_reward_models_quality_is_part_of_the_basis(tmp_path: Path) -> None:
    row = {
        **{"gold_kind": "reward_model", "method": "normbt", "seed": "all", "n": 2},
        **{"kl": np.log(2) - 0.5, "proxy": 0.0, "gold": 0.0, "gold_low": 0.0, "gold_high": 0.0},
        **{"gain": 1, "gain_low": 0, "gain_high": 2, "prompts": 9, "samples": 2, "seeds": 3},
    }
    pd.DataFrame([row]).to_csv(tmp_path / "best_of_n.csv", index=False)
    facts = {
        "bon": {"gold": {"checkpoint": None}},
        "golds": {"reward_model": {"relabelled": {"disagreement": 0.4, "pairs": 50}}},
    }
    (tmp_path / "best_of_n.json").write_text(json.dumps(facts))
    words = "flips 40% of the labels of the proxies' 50 training pairs; another gold may judge"
    words += " otherwise, which no interval covers"
    basis = claims.gold_gain(tmp_path, "normbt", "reward_model").basis
    assert basis.endswith(f"the gold reward model (trained here) {words}")
    facts["bon"]["gold"]["checkpoint"] = "/folder/of/a-gold"
    (tmp_path / "best_of_n.json").write_text(json.dumps(facts))
    frame = figure5.collect(tmp_path)
    assert f"The gold reward model (a-gold) {words}." in figure5.caption(frame)
