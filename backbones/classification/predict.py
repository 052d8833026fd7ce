"""The classes that a trained model sees in images."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from timm.data import create_transform
from torch import nn

from .data import UNREADABLE
from .evaluate import autocast

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}


@dataclass
class Prediction:
    path: str
    classes: list[str]  # most probable first
    probabilities: list[float]


def find_images(paths: Sequence[str | Path], recursive: bool = False) -> list[Path]:
    """Files as given and the images in folders, sorted. Raises ValueError naming what is missing or empty."""
    found = []
    for path in map(Path, paths):
        if path.is_file():
            found.append(path)
        elif path.is_dir():
            inside = path.rglob("*") if recursive else path.iterdir()
            images = sorted(p for p in inside if p.suffix.lower() in SUFFIXES and p.is_file())
            if not images:
                hint = "" if recursive else "; --recursive looks in folders below"
                raise ValueError(f"no images in {path}: they end in {', '.join(sorted(SUFFIXES))}{hint}")
            found += images
        else:
            raise ValueError(f"no file or folder {path}")
    return found


def read_image(path: Path, mode: str) -> Image.Image:
    """Raises OSError with what is wrong."""
    try:
        return Image.open(io.BytesIO(path.read_bytes())).convert(mode)
    except UNREADABLE as error:
        raise OSError(str(error)) from error


@torch.inference_mode()
def predict(
    model: nn.Module,
    images: Sequence[Path],
    preprocessing: dict,
    class_names: Sequence[str] | None,
    topk: int = 5,
    batch_size: int = 64,
    device: str | torch.device = "cpu",
    amp: str | None = None,
) -> tuple[list[Prediction], dict[str, str]]:
    """The `topk` most probable classes of every image, and the files that could not be read with the reason."""
    transform = create_transform(**{**preprocessing, "is_training": False})
    mode = "L" if preprocessing["input_size"][0] == 1 else "RGB"
    names = list(class_names) if class_names else [str(i) for i in range(model.num_classes)]
    if len(names) != model.num_classes:
        raise ValueError(f"{len(names)} class names for a model of {model.num_classes} classes")
    if topk < 1 or batch_size < 1:
        raise ValueError(f"top-k and batch size must be at least 1, not {topk} and {batch_size}")
    device = torch.device(device)
    model.eval().to(device)
    predictions, unreadable = [], {}
    for start in range(0, len(images), batch_size):
        batch, paths = [], []
        for path in images[start : start + batch_size]:
            try:
                batch.append(transform(read_image(path, mode)))
                paths.append(path)
            except OSError as error:
                unreadable[str(path)] = str(error)
        if not batch:
            continue
        with autocast(device, amp):
            logits = model(torch.stack(batch).to(device))
        values, indices = logits.float().softmax(-1).topk(min(topk, len(names)))
        for path, row, index in zip(paths, values.tolist(), indices.tolist(), strict=True):
            predictions.append(Prediction(str(path), [names[i] for i in index], row))
    return predictions, unreadable
