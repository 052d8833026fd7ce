"""What a checkpoint or a published model is worth on a data set: top-1, top-5 and loss; AP of boxes and masks; mIoU.

python tools/validate.py runs/digits/model_best.pth.tar
python tools/validate.py --model cswin_t --data IMAGENET [--file official.pth]
python tools/validate.py runs/tiny_mask_rcnn/epoch_8.pth --pictures 12
python tools/validate.py official.pth --config configs/detection/NAME.py --data COCO
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import backbones  # noqa: F401  registers the zoo
from backbones.classification import checkpoints, cli, data
from backbones.classification.config import Data
from backbones.classification.evaluate import device_of, evaluate
from backbones.classification.progress import write_atomically
from backbones.dense.checkpoints import is_dense, restore


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", help="a checkpoint of tools/train.py")
    parser.add_argument("--model", help="a model by name, with its published weights")
    parser.add_argument("--file", help="the file of --model's weights, if not the published link")
    parser.add_argument("--classes", type=int, help="classes of --file, if not 1000")
    parser.add_argument("--data", help="folder of splits; default: what the checkpoint was trained on")
    parser.add_argument("--dataset", help='timm dataset name, such as "hfds/NAME"')
    parser.add_argument("--split", help="default: the checkpoint's validation split, or validation")
    parser.add_argument("--input-size", type=int)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--amp", choices=["bf16", "fp16"])
    parser.add_argument("--no-ema", action="store_true", help="the plain weights, not the averaged ones")
    parser.add_argument("--skip-unreadable", action="store_true", help="pass over images that cannot be read")
    parser.add_argument("--json", help="write the result here")
    dense = parser.add_argument_group(
        "detectors and segmentors", "checkpoints of tools/train.py CONFIG.py; with --data"
    )
    dense.add_argument("--config", help="the config of a checkpoint that does not hold it")
    dense.add_argument("--cfg-options", nargs="+", default=[], metavar="key.key=value", help="changes to the config")
    dense.add_argument("--output", help="folder for the log and pictures; default: validation beside the checkpoint")
    dense.add_argument("--pictures", type=int, default=0, metavar="N", help="draw the first N images, truth beside it")
    args = parser.parse_args(argv)
    if args.checkpoint and (args.config or is_dense(args.checkpoint)):
        cli.only_given(parser, args, ("checkpoint", "data", "json", "config", "cfg_options", "output", "pictures"))
        return validate_dense(args)
    cli.not_given(parser, args, ("config", "cfg_options", "output", "pictures"))
    if bool(args.checkpoint) == bool(args.model):
        raise ValueError("give a checkpoint or --model NAME")

    if args.checkpoint:
        trained = checkpoints.Trained(args.checkpoint, ema=False if args.no_ema else None)
        source = Data(**trained.config["data"])
    else:
        trained = checkpoints.Published(args.model, args.file, args.classes)
        source = Data(root=args.data or "", dataset=args.dataset or "")
        if not (args.data or args.dataset):
            raise ValueError("give --data FOLDER or --dataset NAME")
    changes = dict(root=args.data, dataset=args.dataset, val_split=args.split)
    source = dataclasses.replace(source, **{key: value for key, value in changes.items() if value})
    source.skip_unreadable = args.skip_unreadable
    split = data.dataset(source, source.val_split, False, args.batch_size)
    names = data.class_names(split)
    if names and len(names) != trained.model.num_classes:
        raise ValueError(
            f"the model has {trained.model.num_classes} classes, {source.root or source.dataset} has {len(names)}"
        )
    if names and trained.class_names and args.checkpoint and names != trained.class_names:
        raise ValueError(
            f"the classes of {source.root} are not the checkpoint's: {names[:5]}, {trained.class_names[:5]}"
        )

    preprocessing = dict(trained.preprocessing)
    if args.input_size:
        preprocessing["input_size"] = (preprocessing["input_size"][0], args.input_size, args.input_size)
    device = device_of(args.device)
    loader = data.loader(split, preprocessing, args.batch_size, args.workers, device)
    metrics = evaluate(trained.model.to(device), loader, device, args.amp, show=True)
    print(
        f"top-1 {metrics['top1']:.3f}%  top-5 {metrics['top5']:.3f}%  loss {metrics['loss']:.4f}  "
        f"{metrics['images']} images, {metrics['images_per_s']:.0f} img/s"
    )
    if args.json:
        about = dict(
            checkpoint=args.checkpoint, model=args.model, data=source.root or source.dataset, split=source.val_split
        )
        write_atomically(Path(args.json), json.dumps(about | metrics, indent=2).encode())
    return 0


def validate_dense(args: argparse.Namespace) -> int:
    cfg, checkpoint = restore(args.checkpoint, args.config, args.cfg_options, args.data)
    from rich.console import Console

    from backbones.dense import run

    output = Path(args.output or Path(args.checkpoint).parent / "validation")
    metrics = run.evaluate(cfg, checkpoint, output, args.pictures)
    if run.is_first():
        Console().print(run.table(metrics))
        if args.json:
            root = cfg.test_dataloader.dataset.data_root
            write_atomically(Path(args.json), run.as_json(metrics, checkpoint=args.checkpoint, data=root).encode())
    return 0


if __name__ == "__main__":
    cli.run(main)
