"""Compile the Triton kernels for GPUs that need not be there, and report what they take of a multiprocessor.

python tools/kernels.py                               # every op at the sizes of published models
python tools/kernels.py --op window_attention --once --dtype bfloat16 --target 90
"""

import argparse
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from backbones.classification import cli
from backbones.profiling import kernels


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--op", nargs="+", help="these only")
    p.add_argument("--small", action="store_true", help="the tests' sizes")
    p.add_argument("--once", action="store_true", help="of each op, only as many sizes as launch all of its kernels")
    p.add_argument("--dtype", nargs="+", default=list(kernels.DTYPES), choices=list(kernels.DTYPES))
    p.add_argument("--target", nargs="+", type=int, default=list(kernels.TARGETS), help="compute capability: 80, 90")
    p.add_argument("--json", type=Path, help="write the report here")
    p.add_argument("--markdown", type=Path, help="write it as a table here")
    return p


def main() -> int:
    args = parser().parse_args()
    ops = kernels.ops()
    if unknown := set(args.op or []) - set(ops):
        raise ValueError(f"no kernels for {', '.join(sorted(unknown))}; there are some for {', '.join(ops)}")
    jobs = [(op, dtype, target) for op in args.op or ops for dtype in args.dtype for target in args.target]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        compile_ = partial(kernels.report, small=args.small, once=args.once)
        found = [kernel for some in pool.map(compile_, *zip(*jobs, strict=True)) for kernel in some]
    if args.json:
        args.json.write_text(json.dumps([kernel._asdict() for kernel in found], indent=1) + "\n")
    if args.markdown:
        args.markdown.write_text(table(found))
    print(table(found), end="")
    print(f"\n{len(found)} kernels compiled, {sum(kernel.spilled > 0 for kernel in found)} of them spill")
    return 0


def table(found: list[kernels.Kernel]) -> str:
    """In Markdown: registers a thread, bytes of shared memory a program, bytes spilled a thread, warps a program."""
    columns = kernels.Kernel._fields
    rows = [columns, ["--:" if name in columns[4:] else "---" for name in columns], *found]
    return "".join(f"| {' | '.join(map(str, row))} |\n" for row in rows)


if __name__ == "__main__":
    cli.run(main)
