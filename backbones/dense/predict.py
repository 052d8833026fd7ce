"""What a detector or segmentor sees in images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import MODELS, TRANSFORMS, VISUALIZERS
from mmengine.structures import BaseDataElement
from PIL import Image

from ..classification.data import UNREADABLE
from . import config
from .checkpoints import Checkpoint, load_weights
from .pictures import THRESHOLD, draw

KEPT = "img_id", "img_path", "ori_shape", "img_shape", "scale_factor"


class Predictor:
    """A trained detector or segmentor with its preprocessing and class names."""

    def __init__(self, cfg, checkpoint: Checkpoint, device: str | torch.device = "cpu"):
        """Raises ValueError if the checkpoint does not fit the config."""
        checkpoint.check_classes(cfg)
        self.model = MODELS.build(cfg.model)
        load_weights(self.model, checkpoint)
        self.model.to(device).eval()
        where, dataset, cls = next(config.datasets(cfg, ["test"]))
        self.classes = checkpoint.classes or config.class_names(dataset, cls)
        steps = [step for step in dataset.pipeline if step.type != "LoadAnnotations"]
        with_id = [dict(step, meta_keys=KEPT) if step.type.startswith("Pack") else step for step in steps]
        self.pipeline = Compose([TRANSFORMS.build(step) for step in with_id])
        meta = dict(getattr(cls, "METAINFO", {})) | dict(dataset.get("metainfo") or {}) | dict(classes=self.classes)
        self.visualizer = VISUALIZERS.build(dict(cfg.visualizer, vis_backends=[], name="predictions"))
        self.visualizer.dataset_meta = meta

    @torch.inference_mode()
    def __call__(self, paths: Sequence[Path]) -> list[BaseDataElement]:
        """Predictions of readable images, in their own sizes."""
        batch = pseudo_collate([self.pipeline(dict(img_path=str(path), img_id=i)) for i, path in enumerate(paths)])
        return self.model.test_step(batch)

    def describe(self, sample: BaseDataElement, threshold: float = THRESHOLD) -> dict[str, Any]:
        """Of a detector: instances with class, score, box [x1, y1, x2, y2] in pixels and COCO's run-length mask; of a
        segmentor: the share of the image that each class takes."""
        height, width = sample.ori_shape[:2]
        about = dict(path=str(sample.img_path), height=height, width=width)
        if "pred_instances" not in sample:
            counts = torch.bincount(sample.pred_sem_seg.data.flatten(), minlength=len(self.classes)).cpu()
            shares = {name: n / (height * width) for name, n in zip(self.classes, counts.tolist(), strict=True) if n}
            return about | dict(shares=shares)
        found = sample.pred_instances.cpu()
        found = found[found.scores >= threshold]
        instances = []
        for i in range(len(found)):
            one = dict(**{"class": self.classes[int(found.labels[i])]}, score=float(found.scores[i]))
            one["box"] = [float(side) for side in found.bboxes[i]]
            if "masks" in found:
                one["mask"] = _run_lengths(found.masks[i].numpy())
            instances.append(one)
        return about | dict(instances=instances)

    def draw(self, sample: BaseDataElement, to: Path, threshold: float = THRESHOLD) -> None:
        draw(self.visualizer, sample.img_path, sample, to, False, threshold)


def readable(images: Sequence[Path]) -> tuple[list[Path], dict[str, str]]:
    """The images that can be decoded, and the others with the reason."""
    good, bad = [], {}
    for path in images:
        try:
            with Image.open(path) as image:
                image.load()
            good.append(path)
        except UNREADABLE as error:
            bad[str(path)] = str(error)
    return good, bad


def predict(
    predictor: Predictor, images: Sequence[Path], folder: Path, threshold: float = THRESHOLD
) -> list[dict[str, Any]]:
    """Draws every image's prediction into `folder`, and says what is there.

    One at a time: segmentors refuse images of several sizes. A label map is saved beside its picture, as
    NAME_labels.png.
    """
    folder.mkdir(parents=True, exist_ok=True)
    reports = []
    for path, name in zip(images, _names(images), strict=True):
        (sample,) = predictor([path])
        picture = folder / f"{name}.png"
        predictor.draw(sample, picture, threshold)
        report = predictor.describe(sample, threshold) | dict(picture=str(picture))
        if "pred_sem_seg" in sample:
            labels = folder / f"{name}_labels.png"
            Image.fromarray(np.uint8(sample.pred_sem_seg.data[0].cpu().numpy())).save(labels)
            report["labels"] = str(labels)
        reports.append(report)
    return reports


def summary(report: dict[str, Any]) -> str:
    """A line: objects with their scores, or classes with their shares."""
    if "shares" in report:
        ordered = sorted(report["shares"].items(), key=lambda item: -item[1])
        return ", ".join(f"{name} {share:.1%}" for name, share in ordered)
    return ", ".join(f"{one['class']} {one['score']:.0%}" for one in report["instances"]) or "nothing"


def _names(images: Sequence[Path]) -> list[str]:
    """A file name for each image's picture: its stem, with a number where several have it."""
    names: list[str] = []
    for path in images:
        name, n = path.stem, 2
        while name in names:
            name, n = f"{path.stem}_{n}", n + 1
        names.append(name)
    return names


def _run_lengths(mask: np.ndarray) -> dict[str, Any]:
    from pycocotools import mask as coder

    code = coder.encode(np.asfortranarray(mask, np.uint8))
    return dict(size=list(code["size"]), counts=code["counts"].decode("ascii"))
