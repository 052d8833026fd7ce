"""Profiles timm models, and whole detectors and segmentors, side by side.

python tools/profile.py 'biformer*' convnext_tiny --size 224 512 --output runs/profile
python tools/profile.py configs/detection/mask_rcnn_biformer_s_1x.py --size 800x1280

Parameters, GMACs (total and by kind), activations, latency (median with its 95% interval, p95), throughput, peak
memory, GMAC/s and their share of what the device's matrix product reaches. Models take turns in every round. --output
gets CSV, JSON, Markdown and pictures. A model that refuses a size, or does not fit in memory, is a row that says so.
"""

import sys

if __name__ == "profile":  # cProfile, in another tool of this folder, wants the standard library's module
    import importlib.util
    import sysconfig

    spec = importlib.util.spec_from_file_location("profile", f"{sysconfig.get_path('stdlib')}/profile.py")
    sys.modules["profile"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["profile"])
else:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

    if __name__ == "__main__":
        sys.path.pop(0)  # this folder, where `profile` would be this file

    from rich.console import Console
    from rich.progress import Progress

    import backbones  # noqa: F401  registers the zoo
    from backbones import profiling
    from backbones.classification import cli
    from backbones.profiling import plots, report

    def size(text: str) -> tuple[int, int]:
        try:
            sides = [int(side) for side in text.lower().split("x")]
            height, width = sides * 2 if len(sides) == 1 else sides
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text} is no size: 224, or HEIGHTxWIDTH as in 480x640") from None
        if min(height, width) < 1:
            raise argparse.ArgumentTypeError(f"{text} is no size: sides must be positive")
        return height, width

    def accuracy(text: str) -> tuple[str, float]:
        name, _, value = text.rpartition("=")
        try:
            return name, float(value)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text} is not MODEL=PERCENT") from None

    def main(argv: Sequence[str] | None = None) -> int:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument(
            "models", nargs="+", metavar="MODEL", help="names, also with * and ? in quotes; config files"
        )
        parser.add_argument("--size", nargs="+", type=size, metavar="N|HxW", help="default: each model's own")
        parser.add_argument("--batch", nargs="+", type=int, default=[1])
        parser.add_argument("--device", default="cpu")
        parser.add_argument("--dtype", default="float32", help="float32, or bfloat16 or float16 by autocast")
        parser.add_argument("--train", action="store_true", help="forward and backward instead of forward")
        parser.add_argument("--compile", action="store_true", help="time the model under torch.compile")
        parser.add_argument("--channels-last", action="store_true")
        parser.add_argument("--rounds", type=int, default=11)
        parser.add_argument("--top1", nargs="+", type=accuracy, default=[], metavar="MODEL=%", help="for the pictures")
        parser.add_argument("--output", type=Path, metavar="FOLDER", help="for CSV, JSON, Markdown and pictures")
        args = parser.parse_args(argv)
        if min(args.batch) < 1:
            raise ValueError(f"a batch of {min(args.batch)}: at least 1")

        names = profiling.resolve(args.models)
        setup = profiling.Setup(
            args.device, args.dtype, args.train, args.compile, args.channels_last, rounds=args.rounds
        )
        console = Console()
        console.width = max(console.width, 125 + max(map(len, names)))  # narrower, columns would lose their digits
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("building models")

            def progress(what: str, done: int, total: int) -> None:
                bar.update(task, description=what, completed=done, total=total)

            rows, peak = profiling.profile(names, args.size or [None], args.batch, setup, progress)
        known = dict(args.top1)
        for row in rows:
            row.top1 = known.get(row.model, row.top1)
        fits = profiling.fits(rows)
        about = profiling.environment(args.device) | dict(
            step="forward and backward" if args.train else "forward",
            dtype=args.dtype,
            layout="channels_last" if args.channels_last else "contiguous",
            compiled=args.compile,
            rounds=args.rounds,
            peak=f"{peak:.0f} GMAC/s",
        )
        console.print(", ".join(f"{key} {value}" for key, value in about.items()), highlight=False, soft_wrap=True)
        console.print(report.terminal(rows), soft_wrap=True)
        for text in (report.scaling(fits), "\n".join(line for line in report.notes(rows).splitlines() if line)):
            if text:
                console.print(text, highlight=False, markup=False, soft_wrap=True)
        if args.output:
            report.save(args.output, rows, fits, about)
            plots.draw(args.output, rows, fits)
            console.print(f"saved: {args.output}", highlight=False)
        return 1 if all(row.error for row in rows) else 0

    if __name__ == "__main__":
        cli.run(main)
