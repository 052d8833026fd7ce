"""The published config is that of DaViT-T."""

_base_ = "retinanet_davit_tiny_1x.py"

model = dict(backbone=dict(model="davit_base"))
published = dict(method="RetinaNet 1x", box_mAP=46.7, source="dingmyu/davit@fc79470 README.md")
