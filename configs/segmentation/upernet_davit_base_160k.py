"""The published config is that of DaViT-T."""

_base_ = "upernet_davit_tiny_160k.py"

model = dict(backbone=dict(model="davit_base"))
published = dict(method="UPerNet 160k", mIoU=49.4, source="dingmyu/davit@fc79470 README.md")
