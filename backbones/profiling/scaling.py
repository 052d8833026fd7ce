"""How time and memory grow with resolution."""

import math
from dataclasses import dataclass

from .measure import Row


@dataclass(frozen=True)
class Fit:
    """value = factor * pixels ** exponent, by least squares of logarithms; 1 is linear in the number of pixels."""

    model: str
    batch: int
    quantity: str  # "median" or "memory"
    exponent: float
    factor: float


def fits(rows: list[Row]) -> list[Fit]:
    """One fit for each model, batch and quantity that was measured at two sizes or more."""
    found = []
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.model, row.batch), []).append(row)
    for (model, batch), group in groups.items():
        for quantity in ("median", "memory"):
            points = {row.height * row.width: getattr(row, quantity) for row in group}
            points = {pixels: value for pixels, value in points.items() if value}
            if len(points) > 1:
                found.append(Fit(model, batch, quantity, *_line(points)))
    return found


def _line(points: dict[int, float]) -> tuple[float, float]:
    xs, ys = [math.log(x) for x in points], [math.log(y) for y in points.values()]
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    slope = sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / sum((a - x) ** 2 for a in xs)
    return slope, math.exp(y - slope * x)
