"""Loss, top-1 and top-5 of a model on a loader."""

import contextlib
import time

import torch
from timm.task import ClassificationEvaluator, evaluation_sample_limit
from torch import nn

from .progress import bar

AMP = {None: None, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, amp: str | None) -> contextlib.AbstractContextManager:
    if amp not in AMP:
        raise ValueError(f'amp is bf16 or fp16, not "{amp}"')
    return torch.autocast(device.type, AMP[amp]) if amp else contextlib.nullcontext()


def device_of(name: str) -> torch.device:
    """`auto` is a GPU if there is one. Raises ValueError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f'no device "{name}" here: {str(error).splitlines()[0]}') from error


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loader: torch.utils.data.DataLoader,
    device: torch.device,
    amp: str | None = None,
    channels_last: bool = False,
    distributed: bool = False,
    show: bool = False,
) -> dict[str, float]:
    """Percentages of top-1 and top-5, mean cross entropy, and images per second of the whole loop."""
    model.eval()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    evaluator = ClassificationEvaluator(device=device, max_samples=evaluation_sample_limit(loader))
    start = time.perf_counter()
    for images, target in bar(loader, len(loader), "validation", show):
        with autocast(device, amp):
            output = model(images.to(device, memory_format=layout))
        target = target.to(device)
        seen = target >= 0  # the others were skipped
        evaluator.update(output[seen], target[seen])
    metrics = dict(evaluator.compute(distributed=distributed))
    return metrics | dict(
        images=evaluator.num_samples, images_per_s=evaluator.num_samples / (time.perf_counter() - start)
    )
