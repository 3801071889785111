"""Paired comparisons of two conditions over seeds: the mean difference, its interval, and what could have been seen.

Runs of both conditions share a seed: the initial weights where shapes agree, and the order of the data. What a seed
does to both of them cancels in the difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import integrate, optimize, stats

SUPPORTED, CONTRADICTED, NOT_DECIDED = "supported", "contradicted", "not decided at this scale"
MOST_SEEDS = 10_000  # `seeds_for` looks no further


@dataclass(frozen=True)
class PairedEffect:
    """The mean of n paired differences with its interval; NaN where n is below 2."""

    n: int
    mean: float
    low: float  # ends of the interval of the mean, by Student's t
    high: float
    std: float  # of the differences, with n - 1
    p: float  # two-sided, of a mean of 0

    @property
    def visible(self) -> float:
        """The smallest true effect that n pairs show with a power of 80 %, two-sided at 5 %."""
        return smallest_visible(self.std, self.n) if self.n > 1 else math.nan


def paired_effect(differences: Sequence[float], confidence: float = 0.95) -> PairedEffect:
    """The effect that paired differences, one for each seed, speak for.

    Args:
        differences: condition minus the other, seed by seed; finite.
        confidence: of the interval, 0..1.

    Raises:
        ValueError: no difference, or one that is not finite.
    """
    values = np.asarray(differences, np.float64)
    n = len(values)
    if not n or not np.isfinite(values).all():
        raise ValueError(f"paired differences should be finite, one at least, got {list(differences)}")
    mean = float(values.mean())
    if n < 2:
        return PairedEffect(n, mean, *[math.nan] * 4)
    std = float(values.std(ddof=1))
    error = std / math.sqrt(n)
    reach = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * error
    if error:
        p = float(2 * stats.t.sf(abs(mean) / error, n - 1))
    else:  # all differences are equal
        p = float(mean == 0)
    return PairedEffect(n, mean, mean - reach, mean + reach, std, p)


def power_of(effect: float, std: float, n: int, alpha: float = 0.05) -> float:
    """How often n pairs show a true effect: power of the two-sided paired t-test at the level alpha, 0..1.

    Args:
        effect: the true mean difference.
        std: standard deviation of the differences, above 0.
        n: pairs, at least 2.
        alpha: level of the test.
    """
    shift = abs(effect) / std * math.sqrt(n)
    limit = stats.t.ppf(1 - alpha / 2, n - 1)

    def beyond(u: float) -> float:
        """The same where the standard deviation that was estimated is at its quantile u."""
        reach = limit * math.sqrt(stats.chi2.ppf(u, n - 1) / (n - 1))
        return float(stats.norm.cdf(shift - reach) + stats.norm.cdf(-shift - reach))

    # Not by scipy's noncentral t distribution, which is NaN for few pairs and large effects.
    return integrate.quad(beyond, 0, 1, limit=200)[0]


def smallest_visible(std: float, n: int, power: float = 0.8, alpha: float = 0.05) -> float:
    """The smallest true effect that n pairs show with that power, in the unit of `std`; 0 where nothing varies."""
    if not std:
        return 0.0
    high = 1.0  # standard deviations
    while power_of(high, 1.0, n, alpha) < power:
        high *= 2
    return std * float(optimize.brentq(lambda effect: power_of(effect, 1.0, n, alpha) - power, 0, high, xtol=1e-4))


def seeds_for(effect: float, std: float, power: float = 0.8, alpha: float = 0.05) -> int | None:
    """The number of pairs that show an effect with that power; None: more than `MOST_SEEDS`."""
    if not std:
        return 2
    low, high = 1, 2  # `low` pairs are too few
    while power_of(effect, std, high, alpha) < power:
        low, high = high, high * 2
        if low >= MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(effect, std, middle, alpha) >= power else (middle, high)
    return high


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for how many there are, by Holm's step-down rule; NaN counts as one that shows nothing.

    Source: S. Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6
    (1979).
    """
    adjusted, largest = [1.0] * len(p_values), 0.0
    filled = [1.0 if math.isnan(p) else p for p in p_values]
    for rank, i in enumerate(sorted(range(len(filled)), key=filled.__getitem__)):
        largest = max(largest, min(1.0, (len(filled) - rank) * filled[i]))
        adjusted[i] = largest
    return adjusted


def conclusion(effect: PairedEffect, adjusted_p: float, sign: int, alpha: float = 0.05) -> str:
    """What runs say of a claim.

    Args:
        effect: of the claim's difference.
        adjusted_p: its p-value after `holm` over all claims.
        sign: of the difference that the claim predicts, 1 or -1.
        alpha: level of the test.

    Returns:
        `SUPPORTED` or `CONTRADICTED` where the difference is not 0 at that level, else `NOT_DECIDED`.
    """
    if not adjusted_p < alpha or effect.mean == 0:
        return NOT_DECIDED
    return SUPPORTED if effect.mean * sign > 0 else CONTRADICTED
