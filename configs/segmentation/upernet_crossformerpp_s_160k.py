"""The official detectors and segmentors group tokens as CrossFormer does, unlike ImageNet's CrossFormer++."""

_base_ = "upernet_crossformer_s_160k.py"

model = dict(backbone=dict(model="crossformerpp_s", options=dict(groups=(7, 7, 7, 7), intervals=(8, 4, 2, 1))))
published = dict(method="UPerNet 160k", mIoU=49.4, source="cheerss/CrossFormer@7952010 README.md")
