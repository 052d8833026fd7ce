"""Times ops and whole models against their references and what PyTorch offers, side by side in one run.

python tools/bench.py --device cuda --dtype bfloat16 --output docs/benchmarks/h200
python tools/bench.py routing_attention 'biformer_?' --check

Names are ops (each at the sizes of published models) or models; without any, all ops. Ops run against each of their
implementations, compiled FlexAttention, scaled_dot_product_attention and a dense attention of as many multiply-adds,
forward and forward + backward; models with the ops' own choice against their references. What does not compute the
right values and gradients is not reported, and the exit status is 1. --output STEM writes STEM.json, .md and .png.
"""

import argparse
import importlib.metadata
import importlib.util
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from backbones import benchmark, profiling
from backbones.benchmark.report import LEGEND, Benchmark
from backbones.classification import cli
from backbones.ops._impl import modules
from backbones.profiling.measure import copy_peak, matmul_peak

ROOT = Path(__file__).parents[1]


def commit() -> str | None:
    """Of the code that runs; None where there is no git checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--match="]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None


def versions() -> dict[str, str]:
    """Of what is installed and may be timed."""
    names = [name for name in ("triton", "natten") if importlib.util.find_spec(name)]
    return {name: importlib.metadata.version(name) for name in names}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="OP|MODEL", help="ops, or models, also with * and ? in quotes")
    parser.add_argument("--batch", type=int, help="default: 64 on CUDA, else that of the ops' cases, 4 for models")
    parser.add_argument("--size", type=int, help="of the models' images; default: each model's own")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16; of models by autocast")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--without", nargs="+", default=[], metavar="NAME", help="implementations to leave out: flex")
    parser.add_argument("--output", type=Path, metavar="STEM", help="for STEM.json, .md and .png")
    parser.add_argument("--check", action="store_true", help="judge the targets; the exit status is 1 if one is missed")
    args = parser.parse_args(argv)
    if args.batch is not None and args.batch < 1:
        raise ValueError(f"a batch of {args.batch}: at least 1")
    setup = profiling.Setup(args.device, args.dtype, rounds=args.rounds)
    batch = args.batch or (64 if torch.device(args.device).type == "cuda" else None)
    known = modules()
    ops = [name for name in args.names if name in known] if args.names else list(known)
    models = profiling.resolve(name for name in args.names if name not in known)
    timed = {impl for name in known for impl in benchmark.implementations(name)} - {"reference"}
    if unknown := set(args.without) - timed:
        raise ValueError(f"--without {', '.join(sorted(unknown))}: there are {', '.join(sorted(timed))}")

    about = profiling.environment(args.device) | versions()
    about |= dict(dtype=args.dtype, rounds=args.rounds, commit=commit())
    about["command"] = shlex.join(["python", "tools/bench.py", *(sys.argv[1:] if argv is None else argv)])
    console = Console()
    console.width = max(console.width, 180)  # narrower, columns would lose their digits
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("ceilings")

        def progress(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        result = Benchmark(about, 2e-3 * matmul_peak(setup), copy_peak(setup))
        for name in [*ops, *models]:
            if name in known:
                result.rows += benchmark.operators([name], setup, batch, progress=progress, without=args.without)
            else:
                result.rows += benchmark.models([name], setup, batch or 4, args.size, progress)
            if args.check:
                result.verdicts = benchmark.judge(result.rows)
            if args.output:  # each time: what is measured stays if the rest takes too long
                result.save(args.output)

    for key, value in about.items():
        console.print(f"{key}: {value}", highlight=False, markup=False, soft_wrap=True)
    console.print(result.ceilings(), highlight=False)
    console.print(LEGEND, highlight=False, markup=False)
    for subject, table in result.tables():
        console.print(f"\n{subject}", style="bold", highlight=False)
        console.print(table, soft_wrap=True)
    for line in (*result.notes(), *result.targets()):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    missed = any(verdict.met is False for verdict in result.verdicts)
    return 1 if missed or any(row.wrong for row in result.rows) else 0


if __name__ == "__main__":
    cli.run(main)
