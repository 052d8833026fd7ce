"""Compile the Triton kernels for GPUs that need not be there, and report what they take of a multiprocessor.

python tools/kernels.py                               # every op at the sizes of published models
python tools/kernels.py --op window_attention --small --dtype float16 --target 90
"""

import argparse
import importlib
import json
import os
import pkgutil
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

import backbones
from backbones.profiling import kernels


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--op", nargs="+", help="these only")
    p.add_argument("--small", action="store_true", help="the tests' sizes")
    p.add_argument("--first", action="store_true", help="one size of each op")
    p.add_argument("--dtype", nargs="+", default=list(kernels.DTYPES), choices=list(kernels.DTYPES))
    p.add_argument("--target", nargs="+", type=int, default=list(kernels.TARGETS), help="compute capability: 80, 90")
    p.add_argument("--json", type=Path, help="write the report here")
    p.add_argument("--markdown", type=Path, help="write a table here")
    return p


def main() -> None:
    args = parser().parse_args()
    path = backbones.ops.__path__
    ops = [m.name.removesuffix("_triton") for m in pkgutil.iter_modules(path) if m.name.endswith("_triton")]
    ops = [op for op in ops if not op.startswith("_")]
    if unknown := set(args.op or []) - set(ops):
        sys.exit(f"no kernels for {', '.join(sorted(unknown))}; there are some for {', '.join(ops)}")
    jobs = []
    for op in args.op or ops:
        module = importlib.import_module(f"backbones.ops.{op}")
        cases = module.SMALL if args.small else module.REAL
        for case in cases[:1] if args.first else cases:
            jobs += [(op, case, dtype, target) for dtype in args.dtype for target in args.target]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        found = [kernel for kernels_ in pool.map(kernels.compiled, *zip(*jobs, strict=True)) for kernel in kernels_]
    columns = kernels.Kernel._fields
    if args.json:
        args.json.write_text(json.dumps([kernel._asdict() for kernel in found], indent=1) + "\n")
    if args.markdown:
        rows = [columns, ["---"] * len(columns), *found]
        args.markdown.write_text("".join(f"| {' | '.join(map(str, row))} |\n" for row in rows))
    table = Table(*columns)
    for kernel in found:
        table.add_row(*map(str, kernel), style="red" if kernel.spilled else None)
    Console().print(table)
    print(f"{len(found)} kernels compiled, {sum(kernel.spilled > 0 for kernel in found)} of them spill")


if __name__ == "__main__":
    main()
