"""Compile the Triton kernels for GPUs that need not be there, and report what they take of a multiprocessor.

python tools/kernels.py                               # every op at the sizes of published models
python tools/kernels.py --op window_attention --once --dtype bfloat16 --target 90
"""

import argparse
import json
import multiprocessing
import os
import shlex
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import version
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
    text = (
        f"{table(found)}\n{len(found)} kernels compiled, {sum(kernel.spilled > 0 for kernel in found)} of them spill.\n"
    )
    if args.markdown:
        about = dict(triton=version("triton"), command=shlex.join(["python", *sys.argv]))
        args.markdown.write_text("".join(f"- {key}: {value}\n" for key, value in about.items()) + f"\n{text}")
    print(text, end="")
    return 0


def table(found: list[kernels.Kernel]) -> str:
    """In Markdown, the most of all sizes: registers a thread, bytes of shared memory a program, bytes spilled a thread.

    Figures are those of the compute capabilities in the header, in their order.
    """
    targets = sorted({kernel.target for kernel in found})
    columns = ["op", "kernel", "dtype", "sizes", "registers", "shared", "spilled"]
    rows = []
    for (op, name, dtype), same in _grouped(found, "op", "kernel", "dtype").items():
        of = _grouped(same, "target")
        most = [
            " / ".join(str(max(getattr(kernel, key) for kernel in of[target,])) for target in targets)
            for key in columns[4:]
        ]
        rows.append([op, f"`{name}`", dtype, len({kernel.case for kernel in same}), *most])
    lines = [columns, ["---"] * 3 + ["--:"] * 4, *rows]
    header = f"Compute capability {' / '.join(f'{n // 10}.{n % 10}' for n in targets)}.\n\n"
    return header + "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def _grouped(found: list[kernels.Kernel], *keys: str) -> dict[tuple, list[kernels.Kernel]]:
    groups: dict[tuple, list[kernels.Kernel]] = {}
    for kernel in found:
        groups.setdefault(tuple(getattr(kernel, key) for key in keys), []).append(kernel)
    return groups


if __name__ == "__main__":
    cli.run(main)
