"""How far a share that was counted may be off by chance. Pure."""

import math

Interval = tuple[float, float]

Z = 1.959964  # of the normal distribution, for 95 %


def wilson(hits: float, count: int) -> Interval | None:
    """Of a share of independent cases; https://en.wikipedia.org/wiki/Binomial_proportion_confidence_interval"""
    if not count:
        return None
    share, square = hits / count, Z * Z
    middle = share + square / (2 * count)
    spread = Z * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    scale = 1 + square / count
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)
