"""The published config is that of DaViT-T."""

_base_ = "mask_rcnn_davit_tiny_1x.py"

model = dict(backbone=dict(model="davit_base"))
published = dict(method="Mask RCNN 1x", box_mAP=48.2, mask_mAP=43.3, source="dingmyu/davit@fc79470 README.md")
