"""The benchmark's pairs to browse: texts, distances, and the scores of two models side by side."""

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from analysis.style import section_label
from analysis.tables import TEXTS, of_method, read_scores, with_texts
from rm.errors import InputError

FACTS: Final = ["pair_id", "section", "subset"]


def collect(data: Path, a: str = "bt", b: str = "normbt", seed: int | None = None) -> pd.DataFrame:
    """Return one row per pair that both models scored, closest first.

    Columns: pair_id, section, subset, distance (‖h_w − h_l‖ of the untrained backbone), then of
    each model (`_a`, `_b`) difference (d = r_w − r_l), error (|σ(d) − 1|), correct (a tie is not),
    then prompt, chosen, rejected. `seed` defaults to the lowest that both have.

    Raises InputError: a file, method or seed is missing.
    """
    path = data / "scores.parquet"
    scores = read_scores(path, needed=["distance"])
    models = [of_method(scores, method, path) for method in (a, b)]
    shared = sorted(set(models[0]["seed"]) & set(models[1]["seed"]))
    if not shared or (seed is not None and seed not in shared):
        raise InputError(f"{path}: {a} and {b} share the seeds {shared}: choose one of them")
    chosen = shared[0] if seed is None else seed
    frame = of_method(scores, "untrained", path)[[*FACTS, "distance"]].drop_duplicates("pair_id")
    for side, model in zip("ab", models, strict=True):
        rows = model[model["seed"] == chosen]
        frame = frame.merge(
            judged(rows).add_suffix(f"_{side}"), left_on="pair_id", right_index=True
        )
    frame = frame.assign(section=frame["section"].map(section_label))
    return with_texts(frame, data, TEXTS).sort_values("distance", ignore_index=True)


def judged(rows: pd.DataFrame) -> pd.DataFrame:
    """Return difference, error and correct of one model's rows, indexed by pair_id."""
    difference = rows["reward_chosen"] - rows["reward_rejected"]
    return pd.DataFrame(
        {
            "difference": difference,
            "error": 1 / (1 + np.exp(difference.clip(-500, 500))),
            "correct": rows["correct"],
        }
    ).set_axis(rows["pair_id"])


def show(pair: pd.Series) -> str:
    """Return one row of `collect` as plain text: facts, prompt, both responses."""
    facts = (
        f"{pair['pair_id']} · {pair['section']} · {pair['subset']} · distance "
        f"{pair['distance']:.3g} · error {pair['error_a']:.2f} and {pair['error_b']:.2f}"
    )
    parts = [f"{name.upper()}\n{pair[name]}" for name in TEXTS]
    return "\n\n".join([facts, *parts])
