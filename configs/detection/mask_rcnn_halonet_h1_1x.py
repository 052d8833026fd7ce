"""Ours: nobody published a detector on HaloNet, nor its settings. timm's halonet_h1 has no weights either."""

_base_ = "_base_/mask_rcnn_1x.py"

model = dict(backbone=dict(model="halonet_h1", pretrained=False, out_indices=(1, 2, 3, 4)))
published = None
