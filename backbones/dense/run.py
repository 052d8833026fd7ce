"""Training and evaluation by mmengine's Runner."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner, find_latest_checkpoint
from rich.console import Console
from rich.table import Table

from . import config, data, reproducible
from .checkpoints import Checkpoint, load_weights
from .pictures import PicturesHook

FOR_THE_FILE = ("paramwise_options", "Hooks will be executed", "Exp name")


def train(
    cfg,
    output: str | Path,
    resume: bool = False,
    half: str | None = None,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> dict[str, float]:
    """Trains a checked config in the folder `output`; returns the last validation's metrics.

    `resume` goes on from the newest checkpoint there, to the weights of a run that was not interrupted. `half` is None
    (what the config says), bf16 or fp16. In several processes (torchrun), call it in each.
    Raises ValueError for data that the config cannot be trained on, and for a folder that holds another run.
    """
    say = say if is_first() else lambda text: None
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, not a folder")
    if resume:
        say(_resumed(folder))
    elif any(folder.glob("*.pth")):
        raise ValueError(f"{folder} holds checkpoints: --resume goes on from them, or choose another --output")
    data.check(cfg, say=say)
    cfg.work_dir, cfg.resume = str(folder), resume
    if resume:
        cfg.load_from = None
    elif cfg.get("load_from"):
        Checkpoint(cfg.load_from)  # is it there, whole and harmless?
    _set_precision(cfg, half, say)
    _set_seeds(cfg, seed)
    results = Results(say)
    runner = _runner(cfg, say)
    runner.register_hook(reproducible.ReproducibleHook(seed))
    runner.register_hook(results)
    runner.train()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return results.metrics


def evaluate(
    cfg,
    checkpoint: Checkpoint,
    output: str | Path,
    pictures: int = 0,
    say: Callable[[str], None] = print,
) -> dict[str, float]:
    """Metrics of a checkpoint on the config's test data, whose log and first `pictures` pictures go into `output`.

    Raises ValueError for data that are broken, and for weights or classes that are not the config's.
    """
    say = say if is_first() else lambda text: None
    data.check(cfg, ["test"], say)
    checkpoint.check_classes(cfg)
    cfg.work_dir, cfg.load_from, cfg.resume = str(output), None, False
    _set_seeds(cfg, 0)
    runner = _runner(cfg, say)
    load_weights(runner.model, checkpoint)
    if pictures:
        runner.register_hook(PicturesHook(Path(output) / "pictures", pictures))
    return runner.test()


def table(metrics: dict[str, float]) -> Table:
    """COCO's precisions, boxes beside masks, or mmseg's means; in percent."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    kinds = [kind for kind in ("bbox", "segm") if f"coco/{kind}_mAP" in metrics]
    if kinds:
        shown.add_column("AP, %")
        for kind in kinds:
            shown.add_column(dict(bbox="boxes", segm="masks")[kind], justify="right")
        names = dict(mAP="mean", mAP_50="IoU 0.50", mAP_75="IoU 0.75", mAP_s="small", mAP_m="medium", mAP_l="large")
        for key, name in names.items():
            values = [metrics[f"coco/{kind}_{key}"] for kind in kinds]
            shown.add_row(name, *("" if value < 0 else f"{100 * value:.1f}" for value in values))  # -1: there are none
    else:
        shown.add_column("%")
        shown.add_column("", justify="right")
        for key, value in metrics.items():
            if key not in ("data_time", "time"):
                shown.add_row(key, f"{value:.2f}")
    return shown


def as_json(metrics: dict[str, float], **about: Any) -> str:
    return json.dumps(about | {key: float(value) for key, value in metrics.items()}, indent=2)


class Results(Hook):
    """Shows and keeps the metrics of the last validation."""

    def __init__(self, say: Callable[[str], None]):
        self.say = say
        self.metrics: dict[str, float] = {}

    def after_val_epoch(self, runner, metrics: dict | None = None) -> None:
        self.metrics = metrics or {}
        if is_first():
            Console().print(table(self.metrics))


def is_first() -> bool:
    """Whether this is the process that speaks and writes."""
    return os.environ.get("RANK", "0") == "0"


def _resumed(folder: Path) -> str:
    newest = find_latest_checkpoint(str(folder)) if folder.is_dir() else None
    if newest is None and any(folder.glob("*.pth")):
        raise ValueError(f"{folder} holds checkpoints but no last_checkpoint that says which is the newest")
    return f"resuming from {newest}" if newest else f"nothing to resume in {folder}: starting anew"


def _runner(cfg, say: Callable[[str], None]) -> Runner:
    cfg.launcher = "pytorch" if int(os.environ.get("WORLD_SIZE", 1)) > 1 else "none"
    if not torch.cuda.is_available():
        _set_cpu(cfg, say)
    level, cfg.log_level = cfg.get("log_level", "INFO"), "WARNING"  # the Runner would print the whole config
    runner = Runner.from_cfg(cfg)
    cfg.log_level = level
    runner.logger.setLevel(level)
    for handler in runner.logger.handlers:
        if handler.level == logging.WARNING:  # not those of other processes, which print errors only
            handler.setLevel(level)
        if type(handler) is logging.StreamHandler:
            handler.addFilter(lambda record: not record.getMessage().startswith(FOR_THE_FILE))
    return runner


def _set_cpu(cfg, say: Callable[[str], None]) -> None:
    """Without a GPU: gloo instead of NCCL, float32 instead of fp16, batch norms that are not synchronised."""
    if cfg.launcher != "none" and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")  # mmengine would choose a GPU first
    cfg.model_wrapper_cfg = dict(
        type="MMDistributedDataParallel",
        device_ids=None,
        broadcast_buffers=False,
        find_unused_parameters=cfg.get("find_unused_parameters", False),
    )
    synchronised = [n for n, _ in config.dictionaries(cfg.model) if n.get("type") in ("SyncBN", "MMSyncBN")]
    for norm in synchronised:
        norm["type"] = "BN"
    if synchronised and cfg.launcher != "none":
        say("no GPU: batch norms are not synchronised between the processes")


def _set_precision(cfg, half: str | None, say: Callable[[str], None]) -> None:
    wrapper = cfg.optim_wrapper
    if half not in (None, "bf16", "fp16"):
        raise ValueError(f'amp is bf16 or fp16, not "{half}"')
    gpu = torch.cuda.is_available()
    if half == "fp16" and not gpu:
        raise ValueError("fp16 needs a GPU; bf16 works without")
    if half == "bf16" or (half is None and not gpu and wrapper.type == "AmpOptimWrapper"):
        wrapper.type = "BFloat16OptimWrapper" if half else "OptimWrapper"
        for key in ("loss_scale", "dtype", "use_fsdp"):
            wrapper.pop(key, None)
        if not half:
            say("no GPU: trained in float32, not in the config's fp16")
    elif half == "fp16":
        wrapper.type = "AmpOptimWrapper"
        wrapper.setdefault("loss_scale", "dynamic")


def _set_seeds(cfg, seed: int) -> None:
    """What `reproducible` needs: one seed for all, and data loading processes of an epoch each that it seeds."""
    cfg.randomness = dict(cfg.get("randomness") or {}, seed=seed)
    cfg.train_dataloader.worker_init_fn = dict(type="seed_worker")
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        if cfg.get(name):
            cfg[name].persistent_workers = False
