"""Peak memory of a training step with the implementations that ops choose, next to that with their references.

python tools/memory.py MODEL [MODEL ...] [--batch 4] [--size 224] [--device cpu]

The figures leave out what is there before the step: weights and libraries. On the CPU a figure is the growth of a
fresh process (Linux only), whose allocator gives freed blocks back at once.
"""

import argparse
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext

import timm
import torch

import backbones


def peak(name: str, reference: bool, batch: int, size: int, device: str) -> float:
    """MiB that one step forward and backward adds."""
    model = timm.create_model(name).train().to(device)
    x = torch.randn(batch, 3, size, size, device=device)
    on_gpu = x.is_cuda
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        model(x[:, :, :32, :32]).sum().backward()  # what libraries allocate once
        model.zero_grad()
        before = _resident("VmRSS")
    with backbones.ops.prefer("reference") if reference else nullcontext():
        model(x).square().mean().backward()
    after = torch.cuda.max_memory_allocated() if on_gpu else _resident("VmHWM")
    return (after - before) / 2**20


def _resident(field: str) -> int:
    """Bytes of this process: now (VmRSS), at most so far (VmHWM)."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith(f"{field}:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    os.environ["MALLOC_MMAP_THRESHOLD_"] = os.environ["MALLOC_TRIM_THRESHOLD_"] = "65536"
    spawn = multiprocessing.get_context("spawn")
    print(f"training step, batch {args.batch}, {args.size} x {args.size}, {args.device}; torch {torch.__version__}\n")
    print("| Model | MiB | With reference ops | Ratio |\n|---|--:|--:|--:|")
    for name in args.models:
        figures = []
        for reference in (False, True):
            with ProcessPoolExecutor(1, mp_context=spawn) as process:
                figures.append(process.submit(peak, name, reference, args.batch, args.size, args.device).result())
        print(f"| `{name}` | {figures[0]:.0f} | {figures[1]:.0f} | {figures[0] / figures[1]:.2f} |")


if __name__ == "__main__":
    main()
