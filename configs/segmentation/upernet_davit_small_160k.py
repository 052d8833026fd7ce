"""The published config is that of DaViT-T."""

_base_ = "upernet_davit_tiny_160k.py"

model = dict(backbone=dict(model="davit_small"))
published = dict(method="UPerNet 160k", mIoU=48.8, source="dingmyu/davit@fc79470 README.md")
