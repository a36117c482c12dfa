"""The measured gradients (gradients.csv): one loader, and what several captions say of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pandas as pd

from analysis.style import section_label
from analysis.tables import one_row_each, read_tidy

KEYS: Final = ["method", "seed", "pair_id"]
UPDATES: Final = {"bt": "update_bt", "normbt": "update_normbt"}
"""The size of a pair's update by each loss: ‖∇_θ L_BT‖, and the same times the pair's weight w̃."""
MU: Final = "μ their mean distance [inferred]"
"""What the weights w̃ are made with."""
THETA: Final = "θ: trained parameters (with LoRA: all)."
"""What the gradients are over."""


def read(data: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Return `columns` of `data`/gradients.csv, one row per model, seed and pair.

    `columns` hold `KEYS`; method is the model's state (untrained, bt, normbt). `UPDATES` (nats /
    parameter unit) are computed, a section gets its display name.

    Raises InputError: the file is missing, empty, lacks a column or repeats a pair within a run.
    """
    path, updates = data / "gradients.csv", set(UPDATES.values())
    needed = [name for name in columns if name not in updates]
    needed += ["gradient_norm", "weight"] if updates & set(columns) else []
    frame = one_row_each(read_tidy(path, needed), KEYS, str(path))
    if "section" in columns:
        frame = frame.assign(section=frame["section"].map(section_label))
    if updates & set(columns):
        norm = frame["gradient_norm"]
        frame = frame.assign(update_bt=norm, update_normbt=norm * frame["weight"])
    return frame[[*columns]].reset_index(drop=True)
