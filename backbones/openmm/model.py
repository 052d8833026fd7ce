"""Detectors and segmentors whose parts learn the backbone's channels by themselves."""

from mmengine.registry import MODELS
from torch import nn

from .backbone import ZooBackbone, channels


@MODELS.register_module("ZooModel")
def zoo_model(method: str, backbone: dict, **parts) -> nn.Module:
    """The detector or segmentor `method` of mmdet or mmseg, as `dict(type="ZooModel", method="MaskRCNN", ...)`.

    `in_channels` is filled in where it is left out: of `neck`, or without a neck of `decode_head`, `auxiliary_head`,
    `panoptic_head` and `bbox_head`, in heads with `in_index` for the maps that it picks. The backbone may have any
    type if nothing is left out.
    """
    first = ["neck"] if parts.get("neck") else ["decode_head", "auxiliary_head", "panoptic_head", "bbox_head"]
    for name in first:
        if part := parts.get(name):
            several = isinstance(part, list)
            filled = [_filled(p, name, backbone) for p in (part if several else [part])]
            parts[name] = filled if several else filled[0]
    return MODELS.build(dict(type=method, backbone=backbone, **parts))


def _filled(part: dict, name: str, backbone: dict) -> dict:
    """The part with its `in_channels`."""
    if "in_channels" in part:
        return part
    if backbone.get("type") not in ("ZooBackbone", ZooBackbone):
        raise ValueError(f"{name} has no in_channels, which is deduced for ZooBackbone, not for {backbone.get('type')}")
    options = dict(backbone.get("options") or {})
    found = channels(backbone["model"], backbone.get("out_indices"), **options)
    index = part.get("in_index")
    if index is not None:
        try:
            found = found[index] if isinstance(index, int) else [found[i] for i in index]
        except IndexError as error:
            raise ValueError(f"{name} has in_index={index}: {backbone['model']} gives {len(found)} maps") from error
    return dict(part, in_channels=found)
