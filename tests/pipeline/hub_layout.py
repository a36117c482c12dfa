"""Folders in the layout of the paper's two data sets on the Hub, with a few rows of our own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

UNIFIED_CARD = """---
configs:
- config_name: all
  data_files:
  - split: train
    path: datasets/unified/train_release_data.json
  - split: val
    path: datasets/unified/val_release_data.json
---
"""
SKYWORK_CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
---
"""


def turns(prompt: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def unified_feedback(folder: Path, rows: int) -> Path:
    """llm-blender/Unified-Feedback: conversations A and B with ratings; every tenth row a tie."""
    made: list[dict[str, Any]] = [
        {
            "id": f"row-{n}",
            "conv_A": turns(f"What is {n} + 1?", f"It is {n + 1}, as one more than {n}."),
            "conv_B": turns(f"What is {n} + 1?", "No idea."),
            "conv_A_rating": 2.0,
            "conv_B_rating": 2.0 if n % 10 == 0 else 1.0,
            "source": "ours",
        }
        for n in range(rows + 20)
    ]
    place = folder / "datasets" / "unified"
    place.mkdir(parents=True)
    for split, part in (("train", made[:rows]), ("val", made[rows:])):
        (place / f"{split}_release_data.json").write_text(json.dumps(part))
    (folder / "README.md").write_text(UNIFIED_CARD)
    return folder


def skywork(folder: Path, rows: int) -> Path:
    """Skywork/Skywork-Reward-Preference-80K-v0.2: chosen and rejected conversations, parquet."""
    frame = pd.DataFrame(
        {
            "chosen": [turns(f"Name {n}.", f"The number is {n}.") for n in range(rows)],
            "rejected": [turns(f"Name {n}.", "No.") for n in range(rows)],
            "source": ["ours"] * rows,
        }
    )
    (folder / "data").mkdir(parents=True)
    frame.to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    (folder / "README.md").write_text(SKYWORK_CARD)
    return folder
