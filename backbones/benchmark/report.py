"""A benchmark as tables, JSON and a bar chart."""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from rich.table import Table

from ..profiling.report import as_markdown, as_terminal
from .measure import STEPS, YARDSTICK, Row
from .targets import Verdict, geometric_mean

HEADER = ["Case", "Step", "Implementation", "ms", "quartiles", "speed", "GMACs", "TFLOP/s", "of matmul", "GB/s"]
HEADER += ["of copy", "MiB", "img/s"]
LEGEND = """\
ms: median of a call, with the quartiles beside it. speed: the reference's time over this one's. GMACs: 10^9 multiply-
adds that the definition makes, for the whole batch. TFLOP/s: 10^12 floating point operations a second, two for each
multiply-add. GB/s: arguments read, results and gradients written, each once. of matmul, of copy: the share of what a
big matrix product in that dtype, and a big copy, reached in the same run. MiB: peak memory that the step adds.
dense_sdpa is a yardstick: attention of as many multiply-adds, every query of an image to the same keys; it computes
something else. All else was compared with float64 before it was timed: values, and gradients where it has them.
"""


@dataclass
class Benchmark:
    about: dict[str, str | int | None]
    matmul: float  # TFLOP/s of a big matrix product
    copy: float  # GB/s of a big copy
    rows: list[Row] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)

    def save(self, stem: Path) -> None:
        """`stem`.json, .md and .png."""
        stem.parent.mkdir(parents=True, exist_ok=True)
        data = dict(
            about=self.about,
            ceilings=dict(matmul_tflops=self.matmul, copy_gigabytes_per_second=self.copy),
            rows=[_record(row) for row in self.rows],
            targets=[verdict._asdict() for verdict in self.verdicts],
        )
        stem.with_suffix(".json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        stem.with_suffix(".md").write_text(self.markdown(), encoding="utf-8")
        draw(stem.with_suffix(".png"), self.rows)

    def markdown(self) -> str:
        lines = [f"{key}: {value}" for key, value in self.about.items()]
        text = ["\n".join(f"- {line}" for line in [*lines, self.ceilings()]), LEGEND]
        text += ["Speed relative to the reference, geometric means:", as_markdown(*self.summary())]
        for subject in dict.fromkeys(row.subject for row in self.rows):
            text += [f"## {subject}", as_markdown(HEADER, self._lines(subject), 3)]
        if notes := self.notes():
            text += ["## Not measured", "\n".join(f"- {note}" for note in notes)]
        if self.verdicts:
            text += ["## Targets", "\n".join(f"- {line}" for line in self.targets())]
        return "\n\n".join(part.strip() for part in text) + "\n"

    def tables(self) -> Iterable[tuple[str, Table]]:
        for subject in dict.fromkeys(row.subject for row in self.rows):
            yield subject, as_terminal(HEADER, self._lines(subject), 3)

    def summary(self) -> tuple[list[str], list[list[str]]]:
        """Header and lines: each subject and step, by implementation."""
        impls = list(dict.fromkeys(row.impl for row in self.rows if row.impl != "reference"))
        lines = []
        for subject in dict.fromkeys(row.subject for row in self.rows):
            for step in STEPS:
                cells = [speeds(self.rows, subject, step, impl) for impl in impls]
                lines.append([f"{subject}, {step}", *(f"{geometric_mean(c):.2f}" if c else "" for c in cells)])
        return ["", *impls], lines

    def ceilings(self) -> str:
        return f"ceilings: matrix product {self.matmul:.3g} TFLOP/s, copy {self.copy:.3g} GB/s"

    def notes(self) -> list[str]:
        """Why figures are missing, each reason once."""
        counts = Counter((row.subject, row.impl, row.wrong, row.note) for row in self.rows if row.note)
        lines = Counter((row.subject, row.impl) for row in self.rows)
        return [
            f"{subject}, {impl} ({n} of {lines[subject, impl]} lines): {'WRONG: ' * wrong}{note}"
            for (subject, impl, wrong, note), n in counts.items()
        ]

    def targets(self) -> list[str]:
        words = {True: "met", False: "missed", None: "open"}
        return [
            f"{words[v.met]}: {v.subject}, {v.target}" + ("" if v.ratio is None else f": {v.ratio:.2f} ({v.where})")
            for v in self.verdicts
        ]

    def _lines(self, subject: str) -> list[list[str]]:
        mine = [row for row in self.rows if row.subject == subject]
        plain = {(row.case, row.step): row.median for row in mine if row.impl == "reference"}
        return [self._cells(row, plain.get((row.case, row.step))) for row in mine]

    def _cells(self, row: Row, plain: float | None) -> list[str]:
        if row.median is None:
            time = ["wrong" if row.wrong else "-", "", ""]
        else:
            time = [f"{1e3 * row.median:.3g}", f"{1e3 * row.low:.3g}-{1e3 * row.high:.3g}"]
            time.append(f"{plain / row.median:.2f}" if plain else "")
        rate = row.gigabytes_per_second
        return [
            f"batch {row.batch}, {row.case}",
            row.step,
            row.impl,
            *time,
            f"{row.gmacs:.3g}",
            _cell(row.tflops, ".3g"),
            _cell(row.tflops and row.tflops / self.matmul, ".0%"),
            _cell(rate, ".3g"),
            _cell(rate and rate / self.copy, ".0%"),
            _cell(row.memory, ".0f"),
            _cell(None if row.gigabytes else row.images_per_second, ".1f"),
        ]


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"


def _record(row: Row) -> dict:
    rates = ("tflops", "gigabytes_per_second", "images_per_second")
    return asdict(row) | {name: getattr(row, name) for name in rates}


def speeds(rows: Iterable[Row], subject: str, step: str, impl: str) -> list[float]:
    """The reference's time over that of `impl`, by case."""
    rows = [row for row in rows if (row.subject, row.step) == (subject, step) and row.median]
    plain = {row.case: row.median for row in rows if row.impl == "reference"}
    return [plain[row.case] / row.median for row in rows if row.impl == impl and row.case in plain]


def draw(path: Path, rows: list[Row]) -> None:
    """Bars: speed relative to the reference, the geometric mean of the cases; lines from the lowest to the highest."""
    subjects = list(dict.fromkeys(row.subject for row in rows))
    impls = list(dict.fromkeys(row.impl for row in rows if row.impl != "reference"))
    colours = {impl: plt.get_cmap("tab20")(i % 20) for i, impl in enumerate(impls)} | {YARDSTICK: "0.8"}
    bars = {
        (subject, step): {i: s for i in impls if (s := speeds(rows, subject, step, i))}
        for subject in subjects
        for step in STEPS
    }
    height = sum(max(1, max(len(bars[s, step]) for step in STEPS)) + 1 for s in subjects)
    fig, axes = plt.subplots(1, 2, figsize=(12, 1.4 + 0.24 * height), layout="constrained", sharey=True, sharex=True)
    for ax, step in zip(axes, STEPS, strict=True):
        _bars(
            ax,
            {s: bars[s, step] for s in subjects},
            {s: bars[s, STEPS[0]] | bars[s, STEPS[1]] for s in subjects},
            colours.get,
        )
        ax.set_title(step, fontsize=11)
        ax.set_xlabel("times as fast as the reference")
    used = [impl for impl in impls if any(impl in drawn for drawn in bars.values())]
    handles = [plt.Rectangle((0, 0), 1, 1, color=colours[impl]) for impl in used]
    fig.legend(handles, used, loc="outside lower center", ncols=max(1, min(8, len(used))), frameon=False, fontsize=9)
    fig.savefig(path, dpi=130)
    plt.close(fig)


def _bars(ax: Axes, drawn: dict[str, dict], places: dict[str, dict], colour: Callable[[str], tuple]) -> None:
    """`places`: what has a line of its own in any panel."""
    y, ticks = 0, []
    for subject, impls in places.items():
        ticks.append(y + (max(1, len(impls)) - 1) / 2)
        for impl in impls:
            if values := drawn[subject].get(impl):
                mean = geometric_mean(values)
                ax.barh(y, mean, height=0.85, color=colour(impl))
                ax.plot([min(values), max(values)], [y, y], color="black", linewidth=0.9)
                label = ax.annotate(f"{mean:.2g}", (max(mean, *values), y), (4, 0), textcoords="offset points")
                label.set(va="center", fontsize=7.5, bbox=dict(facecolor="white", edgecolor="none", pad=0.5))
            y += 1
        y += 1
    ax.set_yticks(ticks, [subject.replace("_attention", "\nattention") for subject in places])
    ax.axvline(1, color="0.3", linewidth=0.8, linestyle="--")
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    ax.xaxis.set_minor_formatter(lambda *_: "")
    ax.margins(x=0.12)
    ax.set_ylim(y - 1, -1)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
