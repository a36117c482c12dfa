"""Figure 6: correlations and slopes against scipy, and their intervals over pairs."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import figure2, figure6
from rm.errors import InputError


def gradients(
    pairs: int = 40, seeds: int = 1, method: str = "bt", noise: float = 0.3
) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for seed in range(seeds):
        distance = rng.uniform(1, 5, pairs)
        rows.append(
            pd.DataFrame(
                {
                    **{"method": method, "seed": seed, "pair_id": [f"p{i}" for i in range(pairs)]},
                    "section": ["Chat", "Reasoning"] * (pairs // 2),
                    "distance": distance,
                    "gradient_distance": 3 * distance * np.exp(rng.normal(0, noise, pairs)),
                }
            )
        )
    return pd.concat(rows, ignore_index=True)


X, Y = "distance", "gradient_distance"


def test_relation_is_scipys_within_a_seed_and_the_mean_over_seeds() -> None:
    frame = gradients(seeds=3)
    found = figure6.relation(frame, X, Y, resamples=50)
    by = [part for _, part in frame.groupby("seed")]
    assert found["pearson"] == pytest.approx(np.mean([stats.pearsonr(p[X], p[Y])[0] for p in by]))
    assert found["spearman"] == pytest.approx(np.mean([stats.spearmanr(p[X], p[Y])[0] for p in by]))
    assert found["slope"] == pytest.approx(np.mean([stats.linregress(p[X], p[Y])[0] for p in by]))
    assert (found["pairs"], found["seeds"]) == (40, 3)


def test_the_heads_share_is_of_the_squared_gradient_distance() -> None:
    assert figure6.head_shares(gradients(noise=0)).endswith(f"{1 / 9:.0%}")  # 3 times the distance


def test_interval_agrees_with_fishers_for_normal_data() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=300)
    frame = pd.DataFrame({"seed": 0, "pair_id": range(300), X: x, Y: x + rng.normal(size=300)})
    found = figure6.relation(frame, X, Y, resamples=2000)
    fisher = stats.pearsonr(frame[X], frame[Y]).confidence_interval()
    assert found["pearson_low"] == pytest.approx(fisher.low, abs=0.02)
    assert found["pearson_high"] == pytest.approx(fisher.high, abs=0.02)


def test_copies_of_a_seed_do_not_narrow_the_interval() -> None:
    one = gradients()
    many = pd.concat([one.assign(seed=seed) for seed in range(5)])
    first, second = (figure6.relation(frame, X, Y, resamples=300) for frame in (one, many))
    for name in ("slope_low", "slope_high", "pearson_low", "spearman_high"):
        assert second[name] == pytest.approx(first[name])


def test_a_pair_that_one_seed_lacks_is_left_out_there_only() -> None:
    frame = gradients(seeds=2)
    frame = frame[~((frame["seed"] == 1) & (frame["pair_id"].isin(["p3", "p8"])))]
    found = figure6.relation(frame, X, Y, resamples=20)
    by = [part for _, part in frame.groupby("seed")]
    assert [len(part) for part in by] == [40, 38]
    assert found["pearson"] == pytest.approx(np.mean([stats.pearsonr(p[X], p[Y])[0] for p in by]))
    assert found["spearman"] == pytest.approx(np.mean([stats.spearmanr(p[X], p[Y])[0] for p in by]))


def test_too_few_pairs_or_no_spread_give_no_number() -> None:
    found = figure6.relation(gradients().head(3), X, Y, resamples=20)
    assert np.isnan([found["pearson"], found["slope"], found["spearman_low"]]).all()
    found = figure6.relation(gradients(43 * 2).assign(distance=0.1), X, Y, resamples=20)
    assert np.isnan([found["pearson"], found["slope"], found["spearman_low"]]).all()


def test_correlations_by_model_and_section() -> None:
    frame = pd.concat([gradients(), gradients(method="untrained", noise=0.0)])
    table = figure6.correlations(frame, resamples=50)
    assert table["method"].tolist() == ["untrained"] * 3 + ["bt"] * 3
    assert table["section"].tolist() == ["Overall", "Chat", "Reasoning"] * 2
    assert table["pairs"].tolist() == [40, 20, 20] * 2
    assert table["pearson"][:3].tolist() == pytest.approx([1, 1, 1])
    assert table["slope"][0] == pytest.approx(3)


def test_draw_states_ours_beside_the_papers(tmp_path: Path) -> None:
    gradients(seeds=2).assign(other=1).to_csv(tmp_path / "gradients.csv", index=False)
    frame = figure6.collect(tmp_path)
    assert list(frame) == figure6.COLUMNS
    figure = figure6.draw(frame, note="tiny · 2 seeds")
    r = figure6.correlations(frame)["pearson"][0]
    title = figure.get_suptitle().replace("\n", " ")
    assert f"after BT training {r:.3f} [" in title and title.endswith("paper 0.928")
    assert "n = 40 pairs × 2 seeds" in figure.axes[0].get_title()
    assert "tiny · 2 seeds" in figure.get_supxlabel()
    assert figure2.THETA in figure.get_supxlabel().replace("\n", " ")


def test_extreme_inputs_draw_or_say_why() -> None:
    with pytest.raises(InputError, match="no rows"):
        figure6.draw(gradients().head(0))
    assert "undefined" in figure6.draw(gradients().head(1)).get_suptitle()
    one = figure6.draw(gradients().query("section == 'Chat'"))
    assert len(one.axes) == 2
