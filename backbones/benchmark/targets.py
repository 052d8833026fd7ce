"""What the kernels and the models that use them are to reach."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from .measure import BOTH, YARDSTICK, Row


class Target(NamedTuple):
    """The rival's `quantity` is to be at least `bound` times ours; `mean`: in the geometric mean over a subject."""

    words: str
    impl: str
    rival: str
    bound: float
    subject: str | None = None  # None: all
    step: str | None = None  # None: each
    quantity: str = "median"
    mean: bool = False


TARGETS = (
    Target("at least 2x as fast as the reference", "triton", "reference", 2.0),
    Target("at least as fast as FlexAttention", "triton", "flex", 1.0),
    Target("1.3x as fast as FlexAttention in the geometric mean", "triton", "flex", 1.3, mean=True),
    Target("at most 1.5x the time of dense SDPA", "triton", YARDSTICK, 1 / 1.5, subject="routing_attention"),
    Target("at least 1.5x the reference's throughput", "ours", "reference", 1.5),
    Target(
        "lower peak memory of a training step than the reference",
        "ours",
        "reference",
        math.nextafter(1.0, 2.0),
        step=BOTH,
        quantity="memory",
    ),
)


class Verdict(NamedTuple):
    target: str
    subject: str
    met: bool | None  # None: nothing to compare was measured
    ratio: float | None  # the lowest, or the mean
    where: str  # case and step of the lowest; how many were compared


def judge(rows: Iterable[Row]) -> list[Verdict]:
    """One verdict for each target and subject that has it."""
    rows = list(rows)
    found = {(row.subject, row.case, row.step, row.impl): row for row in rows}
    verdicts = []
    for target in TARGETS:
        subjects = dict.fromkeys(row.subject for row in rows if target.subject in (None, row.subject))
        for subject in subjects:
            mine = [row for row in rows if row.subject == subject and target.step in (None, row.step)]
            if not {target.impl, target.rival} <= {row.impl for row in mine}:
                continue
            ratios = {}
            for row in (row for row in mine if row.impl == target.impl):
                rival = found.get((subject, row.case, row.step, target.rival))
                ours, theirs = getattr(row, target.quantity), rival and getattr(rival, target.quantity)
                if ours and theirs:
                    ratios[f"{row.case}, {row.step}"] = theirs / ours
            verdicts.append(_verdict(target, subject, ratios))
    return verdicts


def _verdict(target: Target, subject: str, ratios: dict[str, float]) -> Verdict:
    if not ratios:
        return Verdict(target.words, subject, None, None, "")
    if target.mean:
        ratio = geometric_mean(ratios.values())
        return Verdict(target.words, subject, ratio >= target.bound, ratio, f"mean of {len(ratios)}")
    where = min(ratios, key=ratios.get)
    met = sum(ratio >= target.bound for ratio in ratios.values())
    return Verdict(
        target.words, subject, met == len(ratios), ratios[where], f"lowest, at {where}; {met} of {len(ratios)} reach it"
    )


def geometric_mean(values: Iterable[float]) -> float:
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))
