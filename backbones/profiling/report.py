"""Tables of rows: for the terminal, Markdown, CSV, JSON."""

import csv
import json
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path

from rich.table import Table

from ..flops import KINDS
from .measure import Row
from .memory import OUT_OF_MEMORY
from .scaling import Fit

COLUMNS = {
    "Model": lambda r: r.model,
    "Input": lambda r: r.size,
    "Batch": lambda r: f"{r.batch}",
    "Params M": lambda r: _number(r.params, 1e-6, ".1f"),
    "GMACs": lambda r: _number(r.gmacs, 1, ".2f"),
    "conv/linear/attn/other %": lambda r: _shares(r),
    "Act. M": lambda r: _number(r.activations, 1e-6, ".1f"),
    "ms": lambda r: _number(r.median, 1e3, ".1f"),
    "95% CI": lambda r: "" if r.low is None else f"{1e3 * r.low:.1f}-{1e3 * r.high:.1f}",
    "p95": lambda r: _number(r.p95, 1e3, ".1f"),
    "img/s": lambda r: _number(r.throughput, 1, ".1f"),
    "MiB": lambda r: _number(r.memory, 1, ".0f"),
    "GMAC/s": lambda r: _number(r.gmacs_per_second, 1, ".0f"),
    "of peak": lambda r: _number(r.peak_share, 100, ".0f", "%"),
}


def _shares(row: Row) -> str:
    total = sum(row.gmacs_by_kind.values())
    return "/".join(f"{100 * gmacs / total:.0f}" for gmacs in row.gmacs_by_kind.values()) if total else ""


def _number(value: float | None, factor: float, form: str, unit: str = "") -> str:
    return "" if value is None else f"{value * factor:{form}}{unit}"


def terminal(rows: list[Row]) -> Table:
    return as_terminal(list(COLUMNS), map(_cells, rows))


def markdown(rows: list[Row]) -> str:
    return as_markdown(list(COLUMNS), map(_cells, rows))


def as_terminal(header: list[str], lines: Iterable[list[str]], names: int = 1) -> Table:
    """A table whose first `names` columns are words and whose others are numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i < names else "right", no_wrap=True)
    for line in lines:
        table.add_row(*line)
    return table


def as_markdown(header: list[str], lines: Iterable[list[str]], names: int = 1) -> str:
    rule = "|---" * names + "|--:" * (len(header) - names) + "|"
    rows = [f"| {' | '.join(line)} |" for line in (header, *lines)]
    return "\n".join([rows[0], rule, *rows[1:]]) + "\n"


def _cells(row: Row) -> list[str]:
    cells = [cell(row) for cell in COLUMNS.values()]
    if row.error:
        cells[list(COLUMNS).index("ms")] = row.error if row.error == OUT_OF_MEMORY else "refused"
    return cells


def scaling(fits: list[Fit]) -> str:
    """A line for each fit."""
    names = {"median": "time", "memory": "memory"}
    return "\n".join(
        f"{fit.model} (batch {fit.batch}): {names[fit.quantity]} grows with pixels^{fit.exponent:.2f}" for fit in fits
    )


def notes(rows: list[Row]) -> str:
    """Errors in full, and what each model computes that counts as no multiply-add."""
    lines = [f"{row.model} at {row.size}, batch {row.batch}: {row.error}" for row in rows if row.error]
    for row in {row.model: row for row in rows if row.counted_zero}.values():
        calls = ", ".join(f"{name} x{n}" for name, n in row.counted_zero.items())
        lines.append(f"{row.model}, counted as zero: {calls}")
    return "\n".join(lines)


def save(folder: Path, rows: list[Row], fits: list[Fit], about: dict) -> None:
    """profile.csv, profile.json and profile.md in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "profile.csv").open("w", newline="", encoding="utf-8") as file:
        nested = {"gmacs_by_kind", "gmacs_by_part", "counted_zero"}
        names = [f.name for f in fields(Row) if f.name not in nested]
        writer = csv.writer(file)
        writer.writerow([*names, *(f"gmacs_{kind}" for kind in KINDS)])
        for row in rows:
            writer.writerow([*(getattr(row, n) for n in names), *(row.gmacs_by_kind.get(kind) for kind in KINDS)])
    data = dict(about=about, rows=[asdict(row) for row in rows], scaling=[asdict(fit) for fit in fits])
    (folder / "profile.json").write_text(json.dumps(data, indent=1), encoding="utf-8")
    head = ", ".join(f"{key} {value}" for key, value in about.items())
    text = f"{head}\n\n{markdown(rows)}\n{scaling(fits)}\n\n{notes(rows)}\n"
    (folder / "profile.md").write_text(text, encoding="utf-8")
