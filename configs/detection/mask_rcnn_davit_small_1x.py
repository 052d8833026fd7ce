"""The published config is that of DaViT-T."""

_base_ = "mask_rcnn_davit_tiny_1x.py"

model = dict(backbone=dict(model="davit_small"))
published = dict(method="Mask RCNN 1x", box_mAP=47.7, mask_mAP=42.9, source="dingmyu/davit@fc79470 README.md")
