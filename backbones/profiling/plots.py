"""Pictures of a profile, each as PNG and SVG."""

from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from .measure import Row
from .scaling import Fit

MARKERS = "osD^vP*Xhp<>"


def draw(folder: Path, rows: list[Row], fits: list[Fit]) -> list[Path]:
    """Draws what the rows allow; returns the PNG files."""
    done = [row for row in rows if row.median is not None]
    made = []
    if any(row.top1 for row in done):
        made.append(_save(folder / "accuracy_latency", lambda ax: _accuracy(ax, _at_own_size(done), "latency")))
        made.append(_save(folder / "accuracy_gmacs", lambda ax: _accuracy(ax, _at_own_size(done), "gmacs")))
    if len({row.height * row.width for row in done}) > 1:
        times = [fit for fit in fits if fit.quantity == "median"]
        made.append(_save(folder / "latency_resolution", lambda ax: _growth(ax, done, times)))
        if memories := [fit for fit in fits if fit.quantity == "memory"]:
            made.append(_save(folder / "memory_resolution", lambda ax: _growth(ax, done, memories)))
    if parts := [row for row in rows if row.gmacs_by_part]:
        made.append(_save(folder / "stages", lambda ax: _stages(ax, parts)))
    return made


def pareto(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those (cost, accuracy) than which no other is both cheaper and better, by cost."""
    front: list[tuple[float, float]] = []
    for cost, accuracy in sorted(points, key=lambda p: (p[0], -p[1])):
        if not front or accuracy > front[-1][1]:
            front.append((cost, accuracy))
    return front


def _at_own_size(rows: list[Row]) -> list[Row]:
    """Of every model that has an accuracy, the row nearest to the size it was published for, smallest batch."""
    chosen: dict[str, Row] = {}
    for row in sorted(rows, key=lambda r: (abs(r.height * r.width - 224**2), r.batch)):
        if row.top1:
            chosen.setdefault(row.model, row)
    return list(chosen.values())


def _accuracy(ax: Axes, rows: list[Row], cost: str) -> None:
    points = [(1e3 * row.median / row.batch if cost == "latency" else row.gmacs, row.top1) for row in rows]
    front = pareto(points)
    ax.plot(*zip(*front, strict=True), color="0.75", zorder=1, drawstyle="steps-post", label="Pareto front")
    for i in sorted(range(len(rows)), key=lambda i: -points[i][1]):
        marker = MARKERS[i // 10 % len(MARKERS)]
        ax.scatter(*points[i], s=42, color=f"C{i % 10}", marker=marker, zorder=2, label=rows[i].model)
    ax.margins(0.12)
    ax.set_xlim(left=0)
    ax.set_xlabel(f"ms per image, batch {rows[0].batch}" if cost == "latency" else "GMACs per image")
    ax.set_ylabel("published top-1, %")
    _legend_beside(ax)


def _legend_beside(ax: Axes) -> None:
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))


def _growth(ax: Axes, rows: list[Row], fits: list[Fit]) -> None:
    quantity = fits[0].quantity
    scale = 1e3 if quantity == "median" else 1
    for i, fit in enumerate(fits):
        mine = [row for row in rows if (row.model, row.batch) == (fit.model, fit.batch) and getattr(row, quantity)]
        mine.sort(key=lambda row: row.height * row.width)
        pixels = [row.height * row.width for row in mine]
        label = f"{fit.model}, pixels$^{{{fit.exponent:.2f}}}$" + (f", batch {fit.batch}" if fit.batch > 1 else "")
        style = dict(color=f"C{i % 10}", marker=MARKERS[i % len(MARKERS)])
        ax.plot(pixels, [scale * getattr(row, quantity) for row in mine], linestyle="none", label=label, **style)
        ax.plot(pixels, [scale * fit.factor * p**fit.exponent for p in pixels], color=style["color"], linewidth=1)
    ax.set_xscale("log")
    ax.set_yscale("log")
    sizes = {row.height * row.width: row.size for row in rows}
    ax.set_xticks(list(sizes), list(sizes.values()))
    ax.minorticks_off()
    ticks = _round_ticks(*ax.get_ylim())
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.set_xlabel("input, pixels a side")
    ax.set_ylabel("ms per batch" if quantity == "median" else "peak memory of a step, MiB")
    ax.legend(frameon=False, fontsize=8)


def _round_ticks(low: float, high: float) -> list[float]:
    ticks = [m * 10.0**e for e in range(-3, 8) for m in (1, 2, 5)]
    return [tick for tick in ticks if low <= tick <= high]


def _stages(ax: Axes, rows: list[Row]) -> None:
    """Multiply-adds by part of each model, at the smallest size measured."""
    chosen: dict[str, Row] = {}
    for row in sorted(rows, key=lambda r: (r.height * r.width, r.batch)):
        chosen.setdefault(row.model, row)
    names = list(chosen)[::-1]
    left = [0.0] * len(names)
    stages = [{part: gmacs for part, gmacs in chosen[name].gmacs_by_part.items() if gmacs} for name in names]
    names_of_parts = list(dict.fromkeys(part for parts in sorted(stages, key=len, reverse=True) for part in parts))
    for i, part in enumerate(names_of_parts):
        widths = [parts.get(part, 0.0) for parts in stages]
        color = plt.get_cmap("viridis")(i / max(1, len(names_of_parts) - 1))
        ax.barh(names, widths, left=left, color=color, label=part)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    _legend_beside(ax)
    ax.set_xlabel("GMACs per image at " + ", ".join(dict.fromkeys(row.size for row in chosen.values())))


def _save(path: Path, plot: Callable[[Axes], None]) -> Path:
    fig, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
    plot(ax)
    ax.spines[["top", "right"]].set_visible(False)
    for suffix in (".svg", ".png"):
        fig.savefig(path.with_suffix(suffix), dpi=150)
    plt.close(fig)
    return path.with_suffix(".png")
