"""Expected value of the best of n, for every n up to N: unbiased from N samples, ties included."""

from __future__ import annotations

import numpy as np
from scipy.special import gammaln

from rm.errors import InputError


def kl(n: np.ndarray | int) -> np.ndarray:
    """KL divergence of best-of-n from the policy, nats: ln n − (n − 1)/n."""
    count = np.asarray(n, dtype=float)
    return np.log(count) - (count - 1) / count


def order_weights(samples: int) -> np.ndarray:
    """Weights (N, N): row n − 1, column i − 1 holds P(the i-th lowest of N is the best of n).

    C(i − 1, n − 1) / C(N, n): the share of n-subsets whose highest sample is the i-th lowest.
    Computed by logarithms, so that N = 405 neither overflows nor loses digits; every row sums to 1.
    """
    if samples < 1:
        raise InputError(f"the best of n needs 1 or more samples, not {samples}")
    rank = np.arange(1, samples + 1)[None, :]
    n = np.arange(1, samples + 1)[:, None]
    with np.errstate(invalid="ignore"):
        log = _log_choose(rank - 1, n - 1) - _log_choose(np.full_like(n, samples), n)
    return np.where(rank >= n, np.exp(np.where(rank >= n, log, 0.0)), 0.0)


def _log_choose(total: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    rest = np.maximum(total - chosen, 0)
    return gammaln(total + 1.0) - gammaln(chosen + 1.0) - gammaln(rest + 1.0)


def best_of_n(pick_by: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Expected `value` of the sample that `pick_by` puts first among n, drawn without replacement.

    Both are (prompts, N); the result (prompts, N) has n = 1 … N along its columns. Unbiased for the
    best of n fresh samples; samples with equal `pick_by` are equally likely to be picked. Raises
    InputError for unlike shapes and values that are not finite.
    """
    pick_by, value = np.asarray(pick_by, dtype=float), np.asarray(value, dtype=float)
    if pick_by.shape != value.shape or pick_by.ndim != 2:
        raise InputError(f"scores of shapes {pick_by.shape} and {value.shape} do not match")
    if not (np.isfinite(pick_by).all() and np.isfinite(value).all()):
        raise InputError("the scores of a proxy or the gold contain NaN or infinite values")
    ranked = np.stack([_ranked(*row) for row in zip(pick_by, value, strict=True)])
    return ranked @ order_weights(value.shape[1]).T


def _ranked(pick_by: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Values (N,) sorted by `pick_by`; samples with equal `pick_by` all get their mean value."""
    _, group = np.unique(pick_by, return_inverse=True)
    means = np.bincount(group, weights=value) / np.bincount(group)
    return means[np.sort(group)]


def normaliser(scores: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of all (prompts, N) scores: the policy's at n = 1.

    A standard deviation of 0 (all scores equal) becomes 1. Equality is tested on the scores
    themselves, because the mean of equal numbers is rounded: np.std of ten times 0.1 is not 0.
    """
    if np.min(scores) == np.max(scores):
        return float(np.min(scores)), 1.0
    return float(np.mean(scores)), float(np.std(scores))


def normalised(scores: np.ndarray) -> np.ndarray:
    """Scores in the policy's standard deviations above its mean."""
    mean, spread = normaliser(scores)
    return (scores - mean) / spread
