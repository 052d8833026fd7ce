"""What a model sees in images: python tools/predict.py IMAGE|FOLDER ... --checkpoint runs/digits/model_best.pth.tar

--model NAME takes a published classifier instead. --csv and --json write what the table shows. The checkpoint of a
detector or segmentor draws what it finds: --output FOLDER gets a picture of every image, and predictions.json.
"""

import argparse
import csv
import dataclasses
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

import backbones  # noqa: F401  registers the zoo
from backbones.classification import checkpoints, cli
from backbones.classification.evaluate import device_of
from backbones.classification.predict import Prediction, find_images, predict
from backbones.classification.progress import write_atomically
from backbones.dense.checkpoints import is_dense, restore


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    if args.dense:
        return predict_dense(args)
    predictions, _ = run(args)
    show(predictions)
    return 0


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", metavar="IMAGE|FOLDER")
    parser.add_argument("--checkpoint", help="a checkpoint of tools/train.py")
    parser.add_argument("--model", help="a model by name, with its published weights")
    parser.add_argument("--file", help="the file of --model's weights, if not the published link")
    parser.add_argument("--classes", type=int, help="classes of --file, if not 1000")
    parser.add_argument("--recursive", action="store_true", help="look in folders below, too")
    parser.add_argument("--topk", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--amp", choices=["bf16", "fp16"])
    parser.add_argument("--skip-unreadable", action="store_true", help="go on without images that cannot be read")
    parser.add_argument("--csv", help="write the predictions here, a row an image")
    parser.add_argument("--json", help="write the predictions here")
    dense = parser.add_argument_group("detectors and segmentors")
    dense.add_argument("--config", help="the config of a checkpoint that does not hold it")
    dense.add_argument("--cfg-options", nargs="+", default=[], metavar="key.key=value", help="changes to the config")
    dense.add_argument("--output", help="folder for pictures and predictions.json; default: predictions")
    dense.add_argument("--threshold", type=float, default=0.3, help="the least score of an object that counts")
    args = parser.parse_args(argv)
    args.dense = bool(args.checkpoint and (args.config or is_dense(args.checkpoint)))
    if args.dense:
        cli.not_given(parser, args, ("model", "file", "classes", "topk", "batch_size", "csv", "amp"))
    else:
        cli.not_given(parser, args, ("config", "cfg_options", "output", "threshold"))
    if bool(args.checkpoint) == bool(args.model):
        raise ValueError("give --checkpoint FILE or --model NAME")
    return args


def run(args: argparse.Namespace) -> tuple[list[Prediction], dict[str, str]]:
    """Predicts and writes what `args` ask for; returns the predictions, and the unreadable files with the reason."""
    images = find_images(args.images, args.recursive)
    if args.checkpoint:
        trained = checkpoints.Trained(args.checkpoint)
    else:
        trained = checkpoints.Published(args.model, args.file, args.classes)

    predictions, unreadable = predict(
        trained.model,
        images,
        trained.preprocessing,
        trained.class_names,
        args.topk,
        args.batch_size,
        device_of(args.device),
        args.amp,
    )
    report_unreadable(unreadable, len(images), args.skip_unreadable)
    if args.csv:
        write_atomically(Path(args.csv), as_csv(predictions).encode())
    if args.json:
        report = dict(predictions=[dataclasses.asdict(p) for p in predictions], unreadable=unreadable)
        write_atomically(Path(args.json), json.dumps(report, indent=2).encode())
    if unreadable:
        print(f"{len(unreadable)} of {len(images)} images skipped", file=sys.stderr)
    return predictions, unreadable


def report_unreadable(unreadable: dict[str, str], images: int, skip: bool) -> None:
    for path, reason in unreadable.items():
        print(f"unreadable: {path}: {reason}", file=sys.stderr)
    if unreadable and not skip:
        raise ValueError(
            f"{len(unreadable)} of {images} images cannot be read, nothing was written; --skip-unreadable goes on"
        )


def predict_dense(args: argparse.Namespace) -> int:
    """Draws and writes what a detector or segmentor finds."""
    images = find_images(args.images, args.recursive)
    cfg, checkpoint = restore(args.checkpoint, args.config, args.cfg_options)
    from backbones.dense import predict as dense

    readable, unreadable = dense.readable(images)
    report_unreadable(unreadable, len(images), args.skip_unreadable)
    folder = Path(args.output or "predictions")
    predictor = dense.Predictor(cfg, checkpoint, device_of(args.device))
    reports = dense.predict(predictor, readable, folder, args.threshold)
    content = json.dumps(dict(predictions=reports, unreadable=unreadable), indent=2).encode()
    write_atomically(Path(args.json or folder / "predictions.json"), content)
    table = Table(Column("image", overflow="fold"), "found")
    for report in reports:
        table.add_row(Text(report["path"]), Text(dense.summary(report)))
    Console().print(table)
    print(f"pictures: {folder}")
    return 0


def show(predictions: list[Prediction]) -> None:
    table = Table(Column("image", overflow="fold"), "class", "probability", "then")
    for p in predictions:
        others = zip(p.classes[1:], p.probabilities[1:], strict=True)
        rest = ", ".join(f"{name} {share:.1%}" for name, share in others)
        cells = (p.path, p.classes[0], f"{p.probabilities[0]:.1%}", rest)
        table.add_row(*map(Text, cells))  # as text: a path may look like rich's markup
    Console().print(table)


def as_csv(predictions: list[Prediction]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    k = len(predictions[0].classes) if predictions else 0
    writer.writerow(["path", *(f"{what}{i + 1}" for i in range(k) for what in ("class", "probability"))])
    for p in predictions:
        pairs = zip(p.classes, p.probabilities, strict=True)
        writer.writerow([p.path, *(cell for name, share in pairs for cell in (name, f"{share:.6f}"))])
    return text.getvalue()


if __name__ == "__main__":
    cli.run(main)
