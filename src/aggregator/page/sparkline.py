"""A course as a small line without axes, for a cell of a table. Pure."""

import math
from collections.abc import Sequence

from aggregator.measures import Number


def sparkline(values: Sequence[Number | None], points: int) -> str:
    """A path for an SVG of 100 by 24: the values from left to right, the greatest at the top, zero at the bottom.

    Many values are drawn as the mean of every few; a gap stays one.
    """
    size = max(1, math.ceil(len(values) / points))
    means = [_mean(values[i : i + size]) for i in range(0, len(values), size)]
    most = max((mean for mean in means if mean is not None), default=0)
    step = 100 / max(1, len(means) - 1)
    path, pen = [], "M"
    for i, mean in enumerate(means):
        if mean is None:
            pen = "M"
            continue
        path.append(f"{pen}{i * step:.4g} {23 - 22 * max(0.0, mean) / (most or 1):.4g}")
        pen = "L"
    return "".join(path)


def _mean(values: Sequence[Number | None]) -> float | None:
    found = [float(value) for value in values if value is not None]
    return sum(found) / len(found) if found else None
