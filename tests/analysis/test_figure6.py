"""Figure 6 from hand-made gradients."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import figure6
from analysis.gradients import THETA
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


def test_the_heads_share_is_of_the_squared_gradient_distance() -> None:
    assert figure6.head_shares(gradients(noise=0)).endswith(f"{1 / 9:.0%}")  # 3 times the distance


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
    assert THETA in figure.get_supxlabel().replace("\n", " ")


def test_extreme_inputs_draw_or_say_why() -> None:
    with pytest.raises(InputError, match="no rows"):
        figure6.draw(gradients().head(0))
    assert "undefined" in figure6.draw(gradients().head(1)).get_suptitle()
    one = figure6.draw(gradients().query("section == 'Chat'"))
    assert len(one.axes) == 2
