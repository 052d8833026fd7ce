"""Whole detectors and segmentors as modules from images to a tensor, to count and time them."""

from pathlib import Path

import torch
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from . import config

SIZES = dict(mmdet=(800, 1280), mmseg=(512, 2048))  # at which papers count


class Network(nn.Module):
    """Images (B, 3, H, W), normalised, to everything that the heads say of them, in a row.

    That is backbone, neck and heads, with the region proposals of two-stage detectors (1000 at most, their masks of 100
    at most) and without what follows the heads: decoding of boxes, suppression, resizing of masks and label maps.
    """

    def __init__(self, path: str | Path):
        super().__init__()
        cfg = config.load(path)
        self._whole = (MODELS.build(cfg.model),)  # in a tuple, so that its parts are ours
        for name, part in self._whole[0].named_children():
            self.add_module(name, part)
        self.pretrained_cfg = dict(input_size=(3, *SIZES[cfg.default_scope]))

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        meta = dict(img_shape=(height, width), ori_shape=(height, width), pad_shape=(height, width))
        meta |= dict(batch_input_shape=(height, width), scale_factor=(1.0, 1.0))
        samples = [BaseDataElement(metainfo=meta) for _ in images]
        outputs = self._whole[0].forward(images, samples, mode="tensor")
        return torch.cat([tensor.flatten() for tensor in _tensors(outputs)])


def _tensors(outputs) -> list[Tensor]:
    if torch.is_tensor(outputs):
        return [outputs]
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    if isinstance(outputs, (list, tuple)):
        return [tensor for output in outputs for tensor in _tensors(output)]
    return []
