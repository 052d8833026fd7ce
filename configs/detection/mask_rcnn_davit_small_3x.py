"""The published config is that of DaViT-T."""

_base_ = "mask_rcnn_davit_tiny_3x.py"

model = dict(backbone=dict(model="davit_small"))
published = dict(method="Mask RCNN 3x", box_mAP=49.5, mask_mAP=44.3, source="dingmyu/davit@fc79470 README.md")
