"""Peak memory of a training step with the implementations that ops choose, next to that with their references.

python tools/memory.py MODEL [MODEL ...] [--batch 4] [--size 224]

On the CPU. The figures leave out what is there before the step: weights and libraries.
"""

import argparse

import torch

import backbones  # noqa: F401  registers the zoo
from backbones.classification import cli
from backbones.profiling import memory, resolve


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=224)
    args = parser.parse_args()
    names = resolve(args.models)
    print(f"training step, batch {args.batch}, {args.size} x {args.size}; torch {torch.__version__}\n")
    print("| Model | MiB | With reference ops | Ratio |\n|---|--:|--:|--:|")
    for name in names:
        shape = args.batch, 3, args.size, args.size
        ours, plain = (memory.on_cpu(name, shape, reference=reference) for reference in (False, True))
        print(f"| `{name}` | {ours:.0f} | {plain:.0f} | {ours / plain:.2f} |")
    return 0


if __name__ == "__main__":
    cli.run(main)
