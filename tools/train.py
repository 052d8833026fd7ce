"""Trains a classifier: python tools/train.py CONFIG.yaml [section.key=value ...]

Several processes: torchrun --nproc-per-node 2 tools/train.py CONFIG.yaml ...
The run's folder (run.output) gets config.yaml, metrics.csv, curves.png and the checkpoints.
"""

import argparse
from collections.abc import Sequence

import backbones  # noqa: F401  registers the zoo
from backbones.classification import cli, config
from backbones.classification.train import Trainer


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a YAML file; backbones/classification/config.py lists every key")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    args = parser.parse_args(argv)
    trainer = Trainer(config.load(args.config, args.overrides))
    trainer.run()
    trainer.say(f"done: {trainer.folder}")
    return 0


if __name__ == "__main__":
    cli.run(main)
