"""Claims and their verdicts, from hand-made files."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import claims, figure5
from analysis.claims import FAILS, HOLDS, NOT_RUN, UNDECIDED, Measured
from rm.errors import InputError

CLAIM = {
    **{"id": "x", "text": "t", "where": "w", "paper": "p", "says": "s"},
    **{"measure": {"name": "close_gain"}, "holds": "low > 0", "fails": "high < 0"},
    **{"seeds": 3, "pairs": 30},
}

GAIN = {"name": "gold_gain", "method": "normbt", "gold": "verifier", "at": "largest"}


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


def test_rules_are_read_and_bad_ones_refused() -> None:
    number = Measured(1.0, 0.9, 1.2, "")
    for rule, true in {
        "low > 0.8 and high < 1.25": True,
        "low > 0.8 and high < 1.1": False,
        "low > 2 or value <= 1.0": True,
        "low > 2 or high < 1 and value > 0": False,
        "value>=-3": True,
    }.items():
        assert claims.satisfied(rule, number) is true, rule
    for rule in ("low", "mean > 0", "low > x", "low > 0 xor high < 1", ""):
        with pytest.raises(InputError, match="cannot be read"):
            claims.satisfied(rule, number)


@pytest.mark.parametrize(
    ("number", "verdict"),
    [
        (Measured(2, 1, 3, "", 30, 3), HOLDS),
        (Measured(-2, -3, -1, "", 30, 3), FAILS),
        (Measured(1, -1, 3, "", 30, 3), UNDECIDED),
        (Measured(2, 1, 3, "", 30, 2), UNDECIDED),  # too few seeds
        (Measured(2, 2, 2, "", 29, 3), UNDECIDED),  # too few pairs, however narrow
        (Measured(2, 1, 3, ""), HOLDS),  # rests on neither
        (Measured(float("nan"), 1, 3, "", 30, 3), UNDECIDED),
    ],
)
def test_the_verdict_follows_the_rule(
    number: Measured, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(claims.MEASURES, "close_gain", lambda data: number)
    judged = claims.judge(Path("nowhere"), CLAIM)
    assert judged.verdict == verdict and judged.measured == number and judged.reason


def test_what_the_data_lacks_is_not_run(tmp_path: Path) -> None:
    found = claims.judge_all(tmp_path, claims.read_claims())
    assert len(found) == 32 and {one.verdict for one in found} == {NOT_RUN}
    assert all(one.reason and str(tmp_path) not in one.reason for one in found)


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


def test_claims_file_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "claims.yaml"
    for text, words in (
        ("- {id: a}", "claim a lacks"),
        (str([{**CLAIM, "measure": {"name": "luck"}}]), "names no known measure"),
        (str([{**CLAIM, "measure": {**GAIN, "to": 1}}]), "claim x, measure: .*unexpected keyword"),
        (str([{**CLAIM, "measure": {"name": "gold_gain", "at": "largest"}}]), "missing a required"),
        (
            str([{**CLAIM, "measure": {**GAIN, "at": "largset"}}]),
            "largset is none of largest, worst",
        ),
        (str([{**CLAIM, "measure": {**GAIN, "gold": "x"}}]), "gold: x is none of verifier"),
        (str([{**CLAIM, "holds": "low is good"}]), "cannot be read"),
        ("[", "cannot be read"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=words):
            claims.read_claims(path)
    identifiers = [claim["id"] for claim in claims.read_claims()]
    assert len(identifiers) == len(set(identifiers))


def test_measures_of_gradients(tmp_path: Path) -> None:
    frame = gradients()
    frame.to_csv(tmp_path / "gradients.csv", index=False)
    ratio = claims.median_ratio(tmp_path, "distance", "Reasoning", "smallest")
    medians = frame.groupby("section")["distance"].median()
    assert ratio.value == pytest.approx(medians["Reasoning"] / medians["Safety"])
    assert ratio.low <= ratio.value <= ratio.high < 0.15 and ratio.pairs == 20
    assert ratio.basis == "40 pairs, 20 or more of each side"
    rest = claims.median_ratio(tmp_path, "gradient_norm", "Safety", "rest")
    assert 9 < rest.low < rest.high < 12
    assert claims.head_identity(tmp_path).value < 1e-9
    assert claims.proxy_correlation(tmp_path).value == pytest.approx(1)
    bt, ours = (claims.update_correlation(tmp_path, u) for u in ("bt", "normbt"))
    assert bt.low > 0.99 and abs(ours.value) < 0.5
    drop = claims.correlation_drop(tmp_path)
    assert drop.value == pytest.approx(abs(bt.value) - abs(ours.value)) and drop.low > 0
    assert drop.basis.startswith("32 pairs; NormBT's own r ")  # 8 in the tails of d
    with pytest.raises(InputError, match="needs pairs of Chat"):
        claims.median_ratio(tmp_path, "distance", "Chat", "smallest")


def test_an_interval_that_ends_at_zero_up_to_rounding_is_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Measured(10.0, 1e-14, 20.0, "", 100, 5)
    monkeypatch.setitem(claims.MEASURES, "close_gain", lambda data: found)
    judged = claims.judge(tmp_path, CLAIM)
    assert judged.verdict == UNDECIDED and judged.measured is not None and judged.measured.low == 0


def test_smallest_is_the_smallest_sections_median_and_rest_that_of_all_others(
    tmp_path: Path,
) -> None:
    frame = gradients(60)
    frame["section"] = np.array(["Reasoning", "Safety", "Chat"])[np.arange(60) % 3]
    frame["distance"] = np.array([2.0, 8.0, 4.0])[np.arange(60) % 3]
    frame.to_csv(tmp_path / "gradients.csv", index=False)
    for against, other in (("smallest", 4.0), ("rest", 6.0)):  # 20 of 4, 20 of 8: half-way
        found = claims.median_ratio(tmp_path, "distance", "Reasoning", against)
        assert found.value == 2.0 / other and found.pairs == 20
    frame.assign(section="Reasoning").to_csv(tmp_path / "gradients.csv", index=False)
    with pytest.raises(InputError, match="and of another section"):
        claims.median_ratio(tmp_path, "distance", "Reasoning", "smallest")


def test_a_weight_that_over_corrects_is_no_drop(tmp_path: Path) -> None:
    """BT's update grows with the distance, NormBT's falls with it as closely: nothing is gained."""
    over = gradients().assign(weight=lambda f: (20 - f["distance"]) / f["distance"])
    over.to_csv(tmp_path / "gradients.csv", index=False)
    bt, ours = (claims.update_correlation(tmp_path, u) for u in ("bt", "normbt"))
    assert bt.value > 0.99 and ours.value < -0.99
    drop = claims.correlation_drop(tmp_path)
    assert abs(drop.value) < 0.01 and max(abs(drop.low), abs(drop.high)) < 0.05
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
        for seed in (0, 1)
        for step in (1, 3)
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "metrics.parquet")
    assert claims.mean_weight(tmp_path) == Measured(3.5, 3.0, 4.0, "2 seeds", seeds=2)
    with pytest.raises(InputError, match="no bt run"):
        claims.mean_weight(tmp_path, "bt")


def test_accuracy_difference_and_close_gain(tmp_path: Path) -> None:
    sections = ("Reasoning", "Chat")
    rows = [
        {
            **{"method": method, "backbone": "b", "data": "d", "benchmark": "generated"},
            **{
                "seed": seed,
                "pair_id": f"p{i}",
                "subset": sections[i % 2],
                "section": sections[i % 2],
            },
            **{"distance": float(i), "reward_rejected": 0.5},
            "reward_chosen": float(i < 30 if method == "normbt" else i >= 30),
        }
        for method in ("untrained", "bt", "normbt")
        for seed in range(1 if method == "untrained" else 3)
        for i in range(60)
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "scores.parquet")
    found = claims.accuracy_difference(tmp_path, "normbt", "bt", "reasoning")
    assert found.value == 0 and found.low < 0 < found.high
    assert (found.basis, found.pairs, found.seeds) == ("30 pairs × 3 seeds", 30, 3)
    assert claims.accuracy_difference(tmp_path, "normbt", "bt", "average").pairs == 60
    gain = claims.close_gain(tmp_path)
    assert (gain.value, gain.low, gain.high) == (200, 200, 200)  # +100 close, −100 far
    assert (gain.basis, gain.pairs) == ("10 pairs and 10 pairs × 3 seeds", 10)  # the outer sixths
    problems = pd.DataFrame(rows).assign(cluster=[f"c{int(row['distance']) // 4}" for row in rows])
    problems.to_parquet(tmp_path / "scores.parquet")
    found = claims.accuracy_difference(tmp_path, "normbt", "bt", "reasoning")
    assert (found.basis, found.pairs) == ("30 pairs of 15 problems × 3 seeds", 15)
    gain = claims.close_gain(tmp_path)
    assert (gain.basis, gain.pairs) == (
        "10 pairs of 3 problems and 10 pairs of 3 problems × 3 seeds",
        3,
    )
    with pytest.raises(InputError, match="NormBT without EMA was not run"):
        claims.accuracy_difference(tmp_path, "normbt", "normbt_no_ema", "average")


def test_a_difference_at_rates_is_that_of_the_two_rates_runs(tmp_path: Path) -> None:
    """Of 40 pairs 10 are right for BT at any rate but 1e-3, where it is 20; 35 for NormBT."""
    rows = [
        {
            **{"method": method, "backbone": "b", "data": "d", "benchmark": "generated"},
            **{"parameter": parameter, "value": rate, "seed": seed, "pair_id": f"p{i}"},
            **{"subset": "s", "section": "Reasoning", "distance": 1.0, "reward_rejected": 0.5},
            "reward_chosen": float(i < (35 if method == "normbt" else 20 if rate == 1e-3 else 10)),
        }
        for method in ("bt", "normbt")
        for parameter, rate in (("learning_rate", 3e-4), ("learning_rate", 1e-3), ("beta", 1e-3))
        for seed in range(3)
        for i in range(40)
        if (method, parameter) != ("normbt", "beta")
    ]
    with pytest.raises(InputError, match="sweep was not run in this profile"):
        claims.difference_at_rates(tmp_path, "normbt", "bt", "average", 3e-4, 1e-3)
    pd.DataFrame(rows).to_parquet(tmp_path / "sweep_scores.parquet")
    found = claims.difference_at_rates(tmp_path, "normbt", "bt", "reasoning", 3e-4, 1e-3)
    assert found.value == pytest.approx(37.5) and found.low < 37.5 < found.high
    assert (found.basis, found.pairs, found.seeds) == ("40 pairs × 3 seeds", 40, 3)
    same = claims.difference_at_rates(tmp_path, "normbt", "bt", "average", 3e-4, 3e-4)
    assert same.value == pytest.approx(62.5)
    with pytest.raises(InputError, match=r"BT was not swept at a learning rate of 0\.01"):
        claims.difference_at_rates(tmp_path, "normbt", "bt", "average", 3e-4, 1e-2)


def test_gold_gain_is_the_paired_gain_at_the_largest_or_the_worst_n(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not run in this profile"):
        claims.gold_gain(tmp_path, "normbt", "verifier", "largest")
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
    found = claims.gold_gain(tmp_path, "normbt", "verifier", "largest")
    assert found == Measured(1.0, 0.9, 1.2, "n = 16, 9 prompts × 3 seeds", 9, 3, "prompt")
    found = claims.gold_gain(tmp_path, "normbt", "verifier", "worst")
    basis = "n = 4, 9 prompts × 3 seeds; behind at 1 of 3 n"
    assert found == Measured(-0.5, -0.6, -0.3, basis, 9, 3, "prompt")
    with pytest.raises(InputError, match="no NormBT beside its base"):
        claims.gold_gain(tmp_path, "normbt", "reward_model", "largest")


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
    words = "turns 40% of the labels of the proxies' 50 training pairs; another gold may judge"
    words += " otherwise, which no interval covers"
    basis = claims.gold_gain(tmp_path, "normbt", "reward_model", "largest").basis
    assert basis.endswith(f"the gold reward model (trained here) {words}")
    facts["bon"]["gold"]["checkpoint"] = "/folder/of/a-gold"
    (tmp_path / "best_of_n.json").write_text(json.dumps(facts))
    frame = figure5.collect(tmp_path)
    assert f"The gold reward model (a-gold) {words}." in figure5.caption(frame)
