"""Curves over n with intervals, paired gains of NormBT, and over-optimisation.

All intervals are 95% percentile bootstraps that redraw prompts (and seeds, where curves pool
them): the same draws for every method, so differences are paired. The policy's mean and standard
deviation, which the scores are normalised by, are held fixed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from eval.best_of_n.selection import best_of_n, kl, normalised, normaliser
from eval.bootstrap import draw_multinomial
from eval.methods import base_of
from rm.errors import InputError

ORACLE, RANDOM, POOLED = "oracle", "random", "all"
LEVELS = (0.025, 0.975)


@dataclass(frozen=True)
class Draws:
    """Bootstrap weights (resamples, seeds) and (resamples, prompts); every row sums to 1."""

    seeds: np.ndarray
    prompts: np.ndarray

    @classmethod
    def make(cls, seeds: int, prompts: int, resamples: int, seed: int = 0) -> Draws:
        """Redraw seeds and prompts with replacement, as frequencies."""
        generator = np.random.default_rng(seed)
        sizes = (seeds, prompts)
        return cls(*(draw_multinomial(generator, resamples, size) / size for size in sizes))

    def means(self, curves: np.ndarray) -> np.ndarray:
        """Mean curves (resamples, N) of `curves` (seeds, prompts, N) under the draws."""
        weights = self.seeds if len(curves) > 1 else np.ones((len(self.seeds), 1))
        return sum(weights[:, k, None] * (self.prompts @ curve) for k, curve in enumerate(curves))


@dataclass(frozen=True)
class Curves:
    """Per-prompt expected scores of one method: `proxy` and `gold`, each (seeds, prompts, N)."""

    seeds: tuple[int, ...]
    proxy: np.ndarray
    gold: np.ndarray


def curves_of(
    gold: np.ndarray, proxies: Mapping[str, Mapping[int, np.ndarray]]
) -> dict[str, Curves]:
    """Normalised curves of every method (method → seed → scores (prompts, N)), oracle and random.

    Raises InputError if methods have different seeds (they could not be paired).
    """
    seeds = {method: tuple(sorted(runs)) for method, runs in proxies.items()}
    if len(set(seeds.values())) > 1:
        raise InputError(f"the methods have different seeds: {seeds}; train all with the same")
    truth = normalised(gold)
    curves = {}
    for method, runs in proxies.items():
        scores = [normalised(runs[seed]) for seed in seeds[method]]
        curves[method] = Curves(
            seeds[method],
            np.stack([best_of_n(score, score) for score in scores]),
            np.stack([best_of_n(score, truth) for score in scores]),
        )
    oracle, flat = best_of_n(truth, truth)[None], best_of_n(np.zeros_like(truth), truth)[None]
    curves[ORACLE] = Curves((), oracle, oracle)
    curves[RANDOM] = Curves((), np.full_like(flat, np.nan), flat)
    return curves


def table(curves: Mapping[str, Curves], gold: np.ndarray, resamples: int) -> pd.DataFrame:
    """One row per method, seed (and "all") and n.

    Columns: method, seed, n, kl (nats), proxy, gold with gold_low and gold_high (in the policy's
    standard deviations above its mean), gold_raw (the gold's own units), gain with gain_low and
    gain_high (a NormBT method's gold minus its base's, paired; NaN elsewhere), and the counts
    prompts, samples, seeds.
    """
    draws = _draws(curves, resamples)
    mean, spread = normaliser(gold)
    parts = []
    for method, curve in curves.items():
        trained = curves.keys() - {ORACLE, RANDOM}
        base = curves.get(base_of(method, trained) or "") if method.startswith("norm") else None
        for seed, chosen in _runs(curve):
            frame = _one(curve, chosen, draws)
            frame = frame.assign(gold_raw=frame["gold"] * spread + mean)
            frame = frame.assign(**_gain(curve, base, chosen, draws))
            frame.insert(0, "method", method)
            frame.insert(1, "seed", seed)
            parts.append(frame.assign(seeds=len(chosen) if curve.seeds else 0))
    shape = {"prompts": gold.shape[0], "samples": gold.shape[1]}
    return pd.concat(parts, ignore_index=True).assign(**shape)


def _draws(curves: Mapping[str, Curves], resamples: int) -> Draws:
    seeds = max([len(curve.seeds) for curve in curves.values()] + [1])
    return Draws.make(seeds, next(iter(curves.values())).gold.shape[1], resamples)


def _runs(curve: Curves) -> list[tuple[str, list[int]]]:
    """Each seed by itself, then all pooled (the last only, for oracle and random)."""
    alone = [(str(seed), [place]) for place, seed in enumerate(curve.seeds)]
    return [*alone, (POOLED, list(range(len(curve.gold))))]


def _one(curve: Curves, chosen: list[int], draws: Draws) -> pd.DataFrame:
    n = np.arange(1, curve.gold.shape[-1] + 1)
    gold = curve.gold[chosen]
    low, high = np.quantile(draws.means(gold), LEVELS, axis=0)
    return pd.DataFrame(
        {
            "n": n,
            "kl": kl(n),
            "proxy": curve.proxy[chosen].mean(axis=(0, 1)),
            "gold": gold.mean(axis=(0, 1)),
            "gold_low": low,
            "gold_high": high,
        }
    )


def _gain(
    curve: Curves, base: Curves | None, chosen: list[int], draws: Draws
) -> dict[str, np.ndarray]:
    names = ("gain", "gain_low", "gain_high")
    if base is None or not curve.seeds:
        return {name: np.full(curve.gold.shape[-1], np.nan) for name in names}
    apart = curve.gold[chosen] - base.gold[chosen]
    low, high = np.quantile(draws.means(apart), LEVELS, axis=0)
    return dict(zip(names, (apart.mean(axis=(0, 1)), low, high), strict=True))


def overoptimisation(curves: Mapping[str, Curves], resamples: int) -> pd.DataFrame:
    """Test each method for over-optimisation: gold falls after its peak while the proxy rises.

    One row per method.

    Columns: method, peak_n (n at which the pooled gold curve is highest), gold_peak, gold_last and
    proxy_last (at n = N), proxy_rise (proxy from peak_n to N); drop (gold at the peak minus gold at
    N) with drop_low and drop_high; overoptimised (drop_low above 0 while the proxy rises). The
    drop is cross-fitted: each half of the prompts is judged at the peak that the other half shows,
    because a curve falls after its own maximum by chance alone.
    """
    draws = _draws(curves, resamples)
    rows = []
    for method, curve in curves.items():
        if not curve.seeds:
            continue
        mean, proxy = curve.gold.mean(axis=(0, 1)), curve.proxy.mean(axis=(0, 1))
        peak = int(mean.argmax())
        low, high, drop = _drop(curve.gold, draws)
        rise = float(proxy[-1] - proxy[peak])
        rows.append(
            {
                "method": method,
                "peak_n": peak + 1,
                "gold_peak": mean[peak],
                "gold_last": mean[-1],
                "proxy_last": proxy[-1],
                "proxy_rise": rise,
                "drop": drop,
                "drop_low": low,
                "drop_high": high,
                "overoptimised": bool(low > 0 and rise > 0),
            }
        )
    return pd.DataFrame(rows)


def _drop(gold: np.ndarray, draws: Draws) -> tuple[float, float, float]:
    """Low, high and mean of the cross-fitted drop; NaN with fewer than two prompts."""
    prompts = gold.shape[1]
    if prompts < 2:
        return (float("nan"),) * 3
    even = np.arange(prompts) % 2 == 0
    drops = np.empty(gold.shape[:2])
    for half in (even, ~even):
        peak = int(gold[:, ~half].mean(axis=(0, 1)).argmax())
        drops[:, half] = gold[:, half, peak] - gold[:, half, -1]
    low, high = np.quantile(draws.means(drops[..., None])[:, 0], LEVELS)
    return float(low), float(high), float(drops.mean())
