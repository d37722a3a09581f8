"""Confidence intervals: of percentiles, shares, means and of what compares two of them. Numbers in, numbers out.

All rest on one special function, the regularized incomplete beta function, by its continued fraction (Abramowitz and
Stegun 26.5.8, evaluated by Lentz's method). docs/slo.md names the source of each interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

_TINY = 1e-300
_PRECISE = 1e-14
_STEPS = 100_000  # the fraction takes about the square root of a + b steps: enough for 10**9 samples


def beta_cdf(x: float, a: float, b: float) -> float:
    """P(X <= x) for X ~ Beta(a, b)."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast on the other side only
        return 1.0 - beta_cdf(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    return min(1.0, front * _fraction(x, a, b) / a)


def _fraction(x: float, a: float, b: float) -> float:
    c, d = 1.0, 1.0 / _not_zero(1.0 - (a + b) * x / (a + 1.0))
    found = d
    for m in range(1, _STEPS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 / _not_zero(1.0 + term * d)
            c = _not_zero(1.0 + term / c)
            found *= d * c
        if abs(d * c - 1.0) < _PRECISE:
            break
    return found


def _not_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def beta_quantile(probability: float, a: float, b: float) -> float:
    """The x at which beta_cdf reaches `probability`."""
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if beta_cdf(middle, a, b) < probability:
            low = middle
        else:
            high = middle
        if high - low < 1e-13 * high:
            break
    return (low + high) / 2


def binomial_cdf(k: int, n: int, p: float) -> float:
    """P(X <= k) for X ~ Binomial(n, p)."""
    if k < 0:
        return 0.0
    if k >= n or p <= 0:
        return 1.0
    return 1.0 - beta_cdf(p, k + 1, n - k)


def binomial_quantile(probability: float, n: int, p: float) -> int:
    """The least k with P(X <= k) >= probability."""
    about = round(n * p + NormalDist().inv_cdf(probability) * math.sqrt(n * p * (1 - p)))
    low = high = min(max(about, 0), n)
    step = 1
    while low >= 0 and binomial_cdf(low, n, p) >= probability:
        low, step = low - step, step * 2
    step = 1
    while high < n and binomial_cdf(high, n, p) < probability:
        high, step = high + step, step * 2
    low, high = max(low, -1), min(high, n)
    while high - low > 1:
        middle = (low + high) // 2
        if binomial_cdf(middle, n, p) >= probability:
            high = middle
        else:
            low = middle
    return high


def order_ranks(n: int, share: float, confidence: float) -> tuple[int | None, int | None]:
    """The ranks (1 to n) whose values enclose a quantile with at least `confidence`, whatever the distribution.

    None is an end that so few samples do not bound.
    """
    tail = (1 - confidence) / 2
    below = binomial_quantile(tail, n, share)  # so many or fewer values lie under the quantile only now and then:
    if binomial_cdf(below, n, share) > tail:
        below -= 1
    above = binomial_quantile(1 - tail, n, share) + 1
    return (below + 1 if below >= 0 else None), (above if above <= n else None)


def percentile_needs(percent: float, confidence: float) -> int:
    """How many samples bound a percentile on both sides: the greatest (or least) of fewer may lie on the wrong one."""
    if percent in (0, 100):
        return 1
    worse = max(percent, 100 - percent) / 100
    return math.ceil(math.log((1 - confidence) / 2) / math.log(worse))


def share_needs(limit: float, confidence: float) -> int:
    """How many requests without a single error show that their share is at most `limit`."""
    if not 0 < limit < 1:
        return 1
    return math.ceil(math.log((1 - confidence) / 2) / math.log1p(-limit))


def share(k: int, n: int, confidence: float) -> tuple[float, float]:
    """Clopper and Pearson's interval of a share: k of n."""
    if not 0 <= k <= n:
        raise ValueError(f"{k} of {n} is no share")
    if not n:
        return 0.0, 1.0
    tail = (1 - confidence) / 2
    edge = float(tail ** (1 / n))  # none and all of them have a closed form
    if k == 0:
        return 0.0, 1 - edge
    if k == n:
        return edge, 1.0
    return beta_quantile(tail, k, n - k + 1), beta_quantile(1 - tail, k + 1, n - k)


def student(confidence: float, freedom: float) -> float:
    """The t that a Student-distributed value keeps within, on both sides, with `confidence`."""
    if freedom > 1e6:
        return NormalDist().inv_cdf(0.5 + confidence / 2)
    x = beta_quantile(1 - confidence, freedom / 2, 0.5)
    return math.sqrt(freedom * (1 - x) / x)


def mean(value: float, deviation: float, n: int, confidence: float) -> tuple[float, float]:
    """Student's interval of a mean; `deviation` is that of the n values themselves."""
    if n < 2:
        return 0.0, math.inf
    half = student(confidence, n - 1) * deviation / math.sqrt(n - 1)
    return max(0.0, value - half), value + half


def deviation(value: float, fourth: float, n: int, confidence: float) -> tuple[float, float]:
    """A standard deviation's, by the delta method on its logarithm; `fourth` is the fourth central moment."""
    if n < 2 or value <= 0:
        return 0.0, math.inf
    spread = math.sqrt(max(0.0, fourth / value**4 - 1) / n) / 2
    factor = math.exp(NormalDist().inv_cdf(0.5 + confidence / 2) * spread)
    return value / factor, value * factor


Bounded = tuple[float, float, float]  # an estimate, and the ends of its interval


def difference(one: Bounded, other: Bounded, factor: float = 1.0) -> tuple[float, float]:
    """The interval of one - factor * other from theirs, which are independent (MOVER; Newcombe's for two shares)."""
    (x, low, high), (y, least, most) = one, other
    return (
        x - factor * y - math.hypot(x - low, factor * (most - y)),
        x - factor * y + math.hypot(high - x, factor * (y - least)),
    )


def ratio(one: Bounded, other: Bounded) -> tuple[float, float]:
    """The interval of one / other: MOVER on logarithms. Both estimates are above 0."""
    logs = tuple(tuple(math.log(value) if value > 0 else -math.inf for value in bounded) for bounded in (one, other))
    low, high = difference((logs[0][0], logs[0][1], logs[0][2]), (logs[1][0], logs[1][1], logs[1][2]))
    return math.exp(low), math.exp(min(high, 700.0)) if math.isfinite(high) else math.inf


def least_level(excludes: Callable[[float], bool]) -> float:
    """The p value that intervals imply: the least 1 - confidence at which `excludes(confidence)` still holds.

    Not below 1e-6, which is as far as anybody should read it.
    """
    low, high = math.log(1e-6), 0.0
    if excludes(1 - math.exp(low)):
        return math.exp(low)
    for _ in range(18):
        middle = (low + high) / 2
        if excludes(1 - math.exp(middle)):
            high = middle
        else:
            low = middle
    return math.exp(high)
