"""Figure 6 from hand-made gradients."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import figure6
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
                    "gradient_distance": distance
                    * np.sqrt(1 + 9 * np.exp(rng.normal(0, noise, pairs))),
                }
            )
        )
    return pd.concat(rows, ignore_index=True)


def test_the_head_is_left_out_of_the_gradient_distance() -> None:
    """The backbone's part is 3 times the distance, the head's the distance: 1 in 10 of squares."""
    frame = gradients(noise=0)
    assert figure6.without_head(frame)[figure6.BACKBONE].to_numpy() == pytest.approx(
        3 * frame["distance"].to_numpy()
    )
    assert figure6.head_share(frame) == pytest.approx(0.1)
    rounded = figure6.without_head(frame.assign(gradient_distance=0.999 * frame["distance"]))
    assert (rounded[figure6.BACKBONE] == 0).all()


def test_correlations_by_model_and_section() -> None:
    frame = pd.concat([gradients(), gradients(method="untrained", noise=0.0)])
    table = figure6.correlations(figure6.without_head(frame), resamples=50)
    assert table["method"].tolist() == ["untrained"] * 3 + ["bt"] * 3
    assert table["section"].tolist() == ["Overall", "Chat", "Reasoning"] * 2
    assert table["pairs"].tolist() == [40, 20, 20] * 2
    assert table["pearson"][:3].tolist() == pytest.approx([1, 1, 1])
    assert table["slope"][0] == pytest.approx(3)


def test_draw_states_the_first_models_r_beside_the_papers(tmp_path: Path) -> None:
    both = pd.concat([gradients(seeds=2), gradients(method="untrained", noise=1.0)])
    both.assign(other=1).to_csv(tmp_path / "gradients.csv", index=False)
    frame = figure6.collect(tmp_path)
    assert list(frame) == figure6.COLUMNS
    figure = figure6.draw(frame, note="tiny · 2 seeds")
    r = figure6.correlations(figure6.without_head(frame))["pearson"][0]
    assert figure.get_suptitle().endswith(f"r = {r:.3f} (paper 0.928)")
    scatter, forest = figure.axes
    assert scatter.get_title(loc="left") == "untrained backbone"
    assert [t.get_text() for t in forest.get_yticklabels()] == ["Overall", "Chat", "Reasoning"]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == [
        *("Chat", "Reasoning", "untrained backbone", "after BT training"),
    ]
    assert "40 pairs, 2 seeds" in str(figure.get_label())


def test_extreme_inputs_draw_or_say_why() -> None:
    with pytest.raises(InputError, match="no rows"):
        figure6.draw(gradients().head(0))
    assert "r = – (paper" in figure6.draw(gradients().head(1)).get_suptitle()
    one = figure6.draw(gradients().query("section == 'Chat'"))
    assert len(one.axes) == 2
