"""The published config is that of DaViT-T."""

_base_ = "retinanet_davit_tiny_3x.py"

model = dict(backbone=dict(model="davit_small"))
published = dict(method="RetinaNet 3x", box_mAP=48.2, source="dingmyu/davit@fc79470 README.md")
