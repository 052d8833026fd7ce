"""Times models next to timm's convnext_tiny in one run: multiply-adds per second, relative to convnext_tiny.

python tools/speed.py [MODEL ...] [--accelerate MODEL ...] [--batch 4] [--size 224] [--rounds 9] [--device cpu]

Models take turns in every round, so a machine that slows down favours none; the figures are medians of the rounds.
Without a name: the smallest published model of each family. Models of timm's after --accelerate run twice, as timm
made them and after `backbones.accelerate`.
"""

import argparse
import platform
import statistics
import time

import timm
import torch
from catalogue import measure
from torch import Tensor, nn

import backbones
from backbones.profiling.memory import step

BASE = "convnext_tiny"


def medians(models: dict[str, nn.Module], x: Tensor, rounds: int, train: bool) -> dict[str, float]:
    """Seconds of one step of each model, the first round left out."""
    times = {name: [] for name in models}
    for _ in range(rounds + 1):
        for name, model in models.items():
            start = time.perf_counter()
            step(model.train(train), x, train)
            if x.is_cuda:
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(t[1:]) for name, t in times.items()}


def smallest() -> list[str]:
    infos = [backbones.info(name) for name in backbones.list_models()]
    by_size = sorted(infos, key=lambda info: -info.gmacs)
    return sorted({info.family: info.name for info in by_size}.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="*")
    parser.add_argument("--accelerate", nargs="+", default=[], metavar="MODEL")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    names = [BASE, *(args.models or ([] if args.accelerate else smallest())), *args.accelerate]
    models = {name: timm.create_model(name) for name in names}
    gmacs = {name: measure(name, args.size)["gmacs"] for name in names}
    for name in args.accelerate:
        faster = f"{name}, accelerated"
        models[faster], gmacs[faster] = timm.create_model(name), gmacs[name]
        backbones.accelerate(models[faster])
    models = {name: model.eval().to(args.device) for name, model in models.items()}
    x = torch.randn(args.batch, 3, args.size, args.size, device=args.device)
    seconds = [medians(models, x, args.rounds, train) for train in (False, True)]

    threads = f", {torch.get_num_threads()} threads" if args.device == "cpu" else ""
    print(f"batch {args.batch}, {args.size} x {args.size}, float32, {args.device}{threads}", end="; ")
    print(f"torch {torch.__version__}, timm {timm.__version__}, Python {platform.python_version()}\n")
    print("| Model | GMACs | Forward | Relative | Forward + backward | Relative |\n|---|--:|--:|--:|--:|--:|")
    for name in models:
        cells = [f"`{name}`", f"{gmacs[name]:.2f}"]
        for times in seconds:
            ratio = gmacs[name] / times[name] / (gmacs[BASE] / times[BASE])
            cells += [f"{times[name] * 1e3:.0f} ms", f"{ratio:.2f}"]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
