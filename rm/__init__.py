"""The reward model: data, model, objective and training.

For your own training loop, import from here the pair losses, the pair weights,
`representation_distance`, `RewardModel` and `load_reward_model`. A module is imported when one of
its names is first used (PEP 562), so `import rm.errors` loads no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

_PLACES = {
    "rm.objective.losses": ("bt", "bt_label_smoothing", "bt_margin", "bt_margin_out", "hinge"),
    "rm.objective.weights": (
        *("BatchMean", "GradientClip", "InverseDistance", "MeanOne", "NormBT", "Uniform"),
        "representation_distance",
    ),
    "rm.model.checkpoints": ("load_reward_model",),
    "rm.model.reward_model": ("RewardModel",),
}
_MODULES = {name: module for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Return an exported name, importing its module. Raises AttributeError for any other."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """Name the exports too, for completion."""
    return sorted({*globals(), *_MODULES})
