"""The training run: timm's task, optimiser, schedule, EMA, scaler and checkpoints, one epoch after another."""

import argparse
import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.task import ClassificationTask, load_task_ema_checkpoint, resume_task_checkpoint
from timm.utils import CheckpointSaver, NativeScaler, dispatch_clip_grad, random_seed
from timm.utils.distributed import init_distributed_device_so

from . import checkpoints, data
from .config import Config, dump
from .evaluate import autocast, device_of, evaluate
from .progress import Metrics, bar, write_atomically


class Saver(CheckpointSaver):
    """timm's, but files change in one step and only to what is on the disk: there is always a complete `last`."""

    def _replace(self, src: str, dst: str) -> None:
        with open(src, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(src, dst)

    def _duplicate(self, src: str, dst: str) -> None:
        super()._duplicate(src, f"{dst}.new")
        os.replace(f"{dst}.new", dst)


class Trainer:
    """One run of a config. `Trainer(config).run()` returns the last epoch's metrics."""

    def __init__(self, config: Config, say: Callable[[str], None] = print):
        self.config = config
        run = config.run
        self.device, self.distributed, self.rank, self.world_size = _processes(run.device)
        self.say = say if self.rank == 0 else lambda text: None
        self.folder = Path(run.output)
        self._check_folder()
        random_seed(run.seed, 0)  # the same weights in every process

        batch = config.data.batch_size
        train = data.dataset(config.data, config.data.train_split, True, batch, run.seed)
        val = data.dataset(config.data, config.data.val_split, False, batch, run.seed)
        self.class_names = data.class_names(train)
        self._check_classes(data.class_names(val))
        self.model_kwargs = _model_kwargs(config, self.class_names)
        self.model = _model(config, self.model_kwargs)
        self.preprocessing = data.preprocessing(config.data, self.model, config.model.in_chans)

        aug, workers = config.aug, config.data.workers
        common = dict(cfg=self.preprocessing, workers=workers, device=self.device, distributed=self.distributed)
        self.train_loader = data.loader(train, batch_size=batch, aug=aug, **common)
        self.val_loader = data.loader(val, batch_size=config.data.val_batch_size or batch, **common)
        self.mixup = data.mixup(config, self.model.num_classes)
        if len(self.train_loader) == 0:
            raise ValueError(f"{len(train)} training images are less than one batch of {batch}: set data.batch_size")
        self._build_task()

    def _check_folder(self) -> None:
        run = self.config.run
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"run.output {self.folder} is a file, not a folder")
        if any(self.folder.glob("*.pth.tar")) and not run.resume:
            raise ValueError(
                f"{self.folder} holds checkpoints: add run.resume=true to go on from them, or choose another run.output"
            )
        if self.config.aug.repeats and not self.distributed:
            repeats = self.config.aug.repeats
            raise ValueError(f"aug.repeats={repeats} needs several processes (torchrun); for one, add aug.repeats=0")
        autocast(self.device, run.amp)

    def _check_classes(self, val_names: list[str] | None) -> None:
        if self.class_names and val_names and self.class_names != val_names:
            differing = sorted(set(self.class_names) ^ set(val_names))
            raise ValueError(
                f"training and validation data have different classes ({len(self.class_names)} and {len(val_names)}): "
                f"{', '.join(differing[:10]) or 'in another order'}"
            )

    def _build_task(self) -> None:
        run, optim, sched = self.config.run, self.config.optim, self.config.sched
        layout = torch.channels_last if run.channels_last else torch.contiguous_format
        self.model.to(self.device, memory_format=layout)
        self.layout = layout
        smoothing = 0.0 if self.mixup else self.config.aug.smoothing
        loss = dict(soft_targets=True) if self.mixup else dict(smoothing=smoothing)
        self.task = ClassificationTask(self.model, criterion_kwargs=loss, device=self.device, verbose=False)
        self.optimizer = create_optimizer_v2(
            self.model,
            opt=optim.opt,
            lr=optim.lr,
            weight_decay=optim.weight_decay,
            momentum=optim.momentum,
            layer_decay=optim.layer_decay,
        )
        self.updates_per_epoch = math.ceil(len(self.train_loader) / run.accumulate)
        self.scheduler, self.epochs = create_scheduler_v2(
            self.optimizer,
            sched=sched.sched,
            num_epochs=sched.epochs,
            cooldown_epochs=sched.cooldown_epochs,
            warmup_epochs=sched.warmup_epochs,
            warmup_lr=sched.warmup_lr,
            min_lr=sched.min_lr,
            step_on_epochs=False,
            updates_per_epoch=self.updates_per_epoch,
        )
        self.scaler = NativeScaler(device=self.device.type) if run.amp == "fp16" else None
        if run.ema is not None:
            self.task.setup_ema(decay=run.ema, use_warmup=run.ema_warmup)
        self.start = self._resume() if run.resume else 0
        if run.compile:
            self.task.compile()
        if self.distributed:
            ids = [self.device] if self.device.type == "cuda" else None
            self.task.prepare_distributed(device_ids=ids)

    def _resume(self) -> int:
        """Loads the last complete checkpoint; returns the epoch to go on with."""
        path, broken = checkpoints.newest_complete(self.folder)
        for problem in broken:
            self.say(f"passed over: {problem}")
        if path is None:
            self.say(f"nothing to resume in {self.folder}: starting anew")
            return 0
        saved = checkpoints.read(path)
        if saved["args"].model != self.config.model.name or saved["args"].model_kwargs != self.model_kwargs:
            was = f"{saved['args'].model} {saved['args'].model_kwargs}"
            now = f"{self.config.model.name} {self.model_kwargs}"
            raise ValueError(f"{path} was trained as {was}, not as {now}: choose another run.output")
        resume_task_checkpoint(self.task, path, self.optimizer, self.scaler, log_info=False)
        if self.task.has_ema():
            if "state_dict_ema" not in saved:
                self.say(f"{path} has no averaged weights: averaging starts from its plain ones")
            load_task_ema_checkpoint(self.task, path)
        for name, was, now in _changes(saved["args"].config, dataclasses.asdict(self.config)):
            self.say(f"{name} was {was!r}, is {now!r} from here on")
        self.saver_state = saved.get("saver")
        self.say(f"resumed after epoch {saved['epoch'] + 1} from {path}")
        return saved["epoch"] + 1

    def _saver(self) -> CheckpointSaver:
        args = argparse.Namespace(
            model=self.config.model.name,
            model_kwargs=self.model_kwargs,
            class_names=self.class_names,
            preprocessing=self.preprocessing,
            config=dataclasses.asdict(self.config),
        )
        saver = Saver(
            self.model,
            self.optimizer,
            args=args,
            amp_scaler=self.scaler,
            checkpoint_dir=str(self.folder),
            max_history=self.config.run.checkpoints,
            task=self.task,
        )
        if getattr(self, "saver_state", None):
            saver.load_state_dict(self.saver_state)
        return saver

    def run(self) -> dict[str, float]:
        config = self.config
        saver = metrics = None
        if self.rank == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / "config.yaml", dump(config).encode())
            saver, metrics = self._saver(), Metrics(self.folder, self.start)
        self.scheduler.step_update(self.start * self.updates_per_epoch)
        self.say(self._headline())
        row = metrics.rows[-1] if metrics and metrics.rows else {}
        for epoch in range(self.start, self.epochs):
            # seeded anew every epoch, so that a resumed run draws what an uninterrupted one does
            random_seed(config.run.seed + 1 + epoch * self.world_size, self.rank)
            start = time.perf_counter()
            row = dict(epoch=epoch) | self._train_epoch(epoch)
            row |= self._evaluate()
            row["seconds"] = time.perf_counter() - start
            self.say(_line(row, self.epochs))
            if self.rank == 0:
                metrics.add(row)
                metrics.draw()
                saver.save_checkpoint(epoch, metric=row.get("ema_top1", row["val_top1"]))
        if self.distributed:
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()
        return row

    def _headline(self) -> str:
        params = sum(p.numel() for p in self.model.parameters()) / 1e6
        size = " x ".join(map(str, self.preprocessing["input_size"][1:]))
        effective = self.config.data.batch_size * self.config.run.accumulate * self.world_size
        return (
            f"{self.config.model.name}: {params:.2f} M parameters, {self.model.num_classes} classes, {size} pixels, "
            f"batch {effective}, epochs {self.start + 1} to {self.epochs} on {self.device}, in {self.folder}"
        )

    def _train_epoch(self, epoch: int) -> dict[str, float]:
        config = self.config
        for part in (self.train_loader.dataset, getattr(self.train_loader, "sampler", None)):
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch)
        self.task.train()
        batches, accumulate = len(self.train_loader), config.run.accumulate
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        images, update, start = 0, epoch * self.updates_per_epoch, time.perf_counter()
        self.optimizer.zero_grad()
        shown = bar(self.train_loader, batches, f"epoch {epoch + 1}/{self.epochs}", self.rank == 0)
        for i, (x, target) in enumerate(shown):
            x, target = x.to(self.device, memory_format=self.layout), target.to(self.device)
            if self.mixup:
                x, target = self.mixup(x, target)
            last = (i + 1) % accumulate == 0 or i + 1 == batches
            group = accumulate if i < batches - batches % accumulate else batches % accumulate
            with contextlib.nullcontext() if last else self.task.no_sync():
                with autocast(self.device, config.run.amp):
                    loss = self.task(x, target)["loss"]
                self._backward(loss / group, step=last)
            total += loss.detach().double() * len(x)
            images += len(x)
            if last:
                update += 1
                self.optimizer.zero_grad()
                self.task.update_ema(step=update)
                self.scheduler.step_update(update)
        mean = total / images
        if self.distributed:
            torch.distributed.all_reduce(mean)
            mean /= self.world_size
        if not mean.isfinite():
            raise FloatingPointError(
                f"the loss of epoch {epoch + 1} is {mean.item()}; lower optim.lr, set optim.clip_grad or run.amp=null. "
                f"The checkpoints in {self.folder} are from before."
            )
        rate = images * self.world_size / (time.perf_counter() - start)
        lr = max(group["lr"] for group in self.optimizer.param_groups)
        return dict(lr=lr, train_loss=mean.item(), images_per_s=rate)

    def _backward(self, loss: torch.Tensor, step: bool) -> None:
        optim = self.config.optim
        parameters = list(self.task.get_clip_parameters(exclude_head=optim.clip_mode == "agc"))
        if self.scaler is not None:
            self.scaler(loss, self.optimizer, optim.clip_grad, optim.clip_mode, parameters, need_update=step)
            return
        loss.backward()
        if step:
            if optim.clip_grad is not None:
                dispatch_clip_grad(parameters, optim.clip_grad, mode=optim.clip_mode)
            self.optimizer.step()

    def _evaluate(self) -> dict[str, float]:
        run, found = self.config.run, {}
        for prefix, ema in (("val", False), ("ema", True)):
            if ema and not self.task.has_ema():
                continue
            model = self.task.get_eval_model(ema=ema)
            options = dict(distributed=self.distributed, show=self.rank == 0)
            metrics = evaluate(model, self.val_loader, self.device, run.amp, run.channels_last, **options)
            found |= {f"{prefix}_{key}": metrics[key] for key in ("loss", "top1", "top5")}
        return found


def _processes(device: str) -> tuple[torch.device, bool, int, int]:
    """Device, whether torchrun started several processes, this one's rank, and how many there are."""
    info = init_distributed_device_so(device_of(device).type if device == "auto" else str(device_of(device)))
    return torch.device(info["device"]), info["distributed"], info["global_rank"], info["world_size"]


def _model_kwargs(config: Config, names: list[str] | None) -> dict:
    model = config.model
    classes = len(names) if names else None
    if model.num_classes is None and classes is None:
        raise ValueError(f"{config.data.dataset} does not say how many classes it has: set model.num_classes")
    if model.num_classes is not None and classes is not None and model.num_classes != classes:
        raise ValueError(f"model.num_classes is {model.num_classes}, the data have {classes} classes: {_few(names)}")
    return dict(
        num_classes=model.num_classes or classes,
        in_chans=model.in_chans,
        drop_rate=model.drop_rate,
        drop_path_rate=model.drop_path_rate,
        **model.kwargs,
    )


def _model(config: Config, kwargs: dict) -> torch.nn.Module:
    name = config.model.name
    if not timm.is_model(name.split(".")[0]):
        raise ValueError(checkpoints.unknown_model(name))
    file, overlay = config.model.file, None
    if file:
        try:
            classes = config.model.file_classes or checkpoints.read(file)["args"].model_kwargs["num_classes"]
        except ValueError:
            classes = None  # of another origin
        overlay = dict(file=file) | (dict(num_classes=classes) if classes else {})
    pretrained = config.model.pretrained or overlay is not None
    try:
        return timm.create_model(name, pretrained=pretrained, pretrained_cfg_overlay=overlay, **kwargs)
    except TypeError as error:
        raise ValueError(f"model.kwargs: {error}") from error


def _changes(was: dict, now: dict) -> list[tuple[str, object, object]]:
    """What two configs disagree on, where it changes the result."""
    machine = {"run.output", "run.resume", "run.device", "data.root", "data.workers"}
    old, new = ({f"{s}.{k}": v for s in c if isinstance(c[s], dict) for k, v in c[s].items()} for c in (was, now))
    return [(key, old.get(key), new[key]) for key in new if key not in machine and old.get(key) != new[key]]


def _few(names: list[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _line(row: dict, epochs: int) -> str:
    text = (
        f"epoch {row['epoch'] + 1}/{epochs}  loss {row['train_loss']:.4f}  "
        f"val loss {row['val_loss']:.4f}  top-1 {row['val_top1']:.2f}%"
    )
    if "ema_top1" in row:
        text += f"  averaged {row['ema_top1']:.2f}%"
    left = (epochs - row["epoch"] - 1) * row["seconds"]
    return text + f"  {row['images_per_s']:.0f} img/s  {int(left // 60)}:{int(left % 60):02d} left"
