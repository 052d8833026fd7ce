"""Trains a classifier, a detector or a segmentor: python tools/train.py CONFIG [key.key=value ...]

A .yaml file (configs/classification) is trained on timm's classes, a .py file (configs/detection, configs/segmentation)
by mmdet and mmseg (tools/install_mm.sh). Several processes: torchrun --nproc-per-node 2 tools/train.py CONFIG ...
The run's folder gets the config, the metrics and the checkpoints.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import backbones  # noqa: F401  registers the zoo
from backbones.classification import cli, config
from backbones.classification.train import Trainer

RESUME = "interrupted; the same command with --resume goes on from the last complete checkpoint"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="for a .yaml, backbones/classification/config.py lists every key")
    parser.add_argument("overrides", nargs="*", metavar="key.key=value", help="changes to the config")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="key.key=value", help="the same")
    parser.add_argument("--data", metavar="FOLDER", help="where the data are, instead of what the config says")
    parser.add_argument("--output", metavar="FOLDER", help="the run's folder; default: runs/<name of the config>")
    parser.add_argument("--resume", action="store_true", help="go on from the last complete checkpoint in the folder")
    parser.add_argument("--amp", choices=["bf16", "fp16"], help="mixed precision")
    parser.add_argument("--seed", type=int)
    args = parser.parse_intermixed_args(argv)
    overrides = [*args.overrides, *args.cfg_options]
    if Path(args.config).suffix == ".py":
        return train_dense(args, overrides)

    given = dict(data=("data.root", args.data), output=("run.output", args.output), amp=("run.amp", args.amp))
    given |= dict(resume=("run.resume", "true" if args.resume else None), seed=("run.seed", args.seed))
    overrides += [f"{key}={value}" for key, value in given.values() if value is not None]
    trainer = Trainer(config.load(args.config, overrides))
    trainer.run()
    trainer.say(f"done: {trainer.folder}")
    return 0


def train_dense(args: argparse.Namespace, overrides: list[str]) -> int:
    from backbones.dense import config as dense

    cfg = dense.load(args.config, overrides, args.data)
    from backbones.dense import run

    output = args.output or cfg.get("work_dir") or str(Path("runs") / Path(args.config).stem)
    run.train(cfg, output, args.resume, args.amp, args.seed or 0)
    if run.is_first():
        print(f"done: {output}")
    return 0


if __name__ == "__main__":
    cli.run(main, RESUME)
