"""What a run shows while it works and leaves behind: a progress bar, metrics.csv, curves.png."""

import csv
import io
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

COLUMNS = ("epoch", "lr", "train_loss", "val_loss", "val_top1", "val_top5", "ema_loss", "ema_top1", "ema_top5")
TIMING = ("images_per_s", "seconds")


def bar(batches: Iterable, total: int, what: str, show: bool) -> Iterator:
    """The batches (images, ...), with rate and remaining time: a bar where a person watches, else a line a minute."""
    if not show:
        yield from batches
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    watched = sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not watched) as progress:
        task = progress.add_task(what, total=total, rate="")
        start, said, images = time.perf_counter(), time.perf_counter(), 0
        for i, batch in enumerate(batches, 1):
            yield batch
            now, images = time.perf_counter(), images + len(batch[0])
            rate = f"{images / (now - start):.0f} img/s"
            progress.update(task, advance=1, rate=rate)
            if not watched and now - said > 60:
                said = now
                print(f"{what}: {i}/{total}, {rate}, {(now - start) / i * (total - i):.0f} s left", flush=True)


def write_atomically(path: Path, content: bytes) -> None:
    """The file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


class Metrics:
    """The rows of metrics.csv, one an epoch; rows from `start` on, of a run that was interrupted, are dropped."""

    def __init__(self, folder: Path, start: int):
        self.path, self.curves = folder / "metrics.csv", folder / "curves.png"
        self.rows: list[dict] = []
        if self.path.is_file():
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
            self.rows = [row for row in rows if row["epoch"] < start]

    def add(self, row: dict) -> None:
        self.rows.append(row)
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, (*COLUMNS, *TIMING))
        writer.writeheader()
        for row in self.rows:
            writer.writerow({k: f"{v:.6g}" for k, v in row.items()})
        write_atomically(self.path, text.getvalue().encode())

    def draw(self) -> None:
        """Losses, accuracies and learning rate against the epoch."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11, 3.4), layout="constrained")
        panels = figure.subplots(1, 3)
        averaged = "validation, averaged weights"
        series = {
            "loss": dict(train_loss="training", val_loss="validation", ema_loss=averaged),
            "top-1 accuracy (%)": dict(val_top1="validation", ema_top1=averaged),
            "learning rate": dict(lr=""),
        }
        colours = dict(train_loss="C7", val_loss="C0", val_top1="C0", ema_loss="C1", ema_top1="C1", lr="C7")
        marker = "." if len(self.rows) < 30 else ""
        for panel, (title, lines) in zip(panels, series.items(), strict=True):
            for key, label in lines.items():
                points = [(row["epoch"] + 1, row[key]) for row in self.rows if key in row]
                if points:
                    panel.plot(*zip(*points, strict=True), label=label, color=colours[key], marker=marker)
            panel.set_title(title, fontsize=10)
            panel.set_xlabel("epoch")
            panel.grid(alpha=0.3)
            panel.spines[["top", "right"]].set_visible(False)
            if len(panel.lines) > 1:
                panel.legend(frameon=False, fontsize=8)
        best = max(max(row.get("ema_top1", 0), row["val_top1"]) for row in self.rows)
        panels[1].set_title(f"top-1 accuracy (%), best {best:.2f}", fontsize=10)
        image = io.BytesIO()
        FigureCanvasAgg(figure).print_png(image)
        write_atomically(self.curves, image.getvalue())
