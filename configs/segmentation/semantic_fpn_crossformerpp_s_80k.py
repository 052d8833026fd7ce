"""The official detectors and segmentors group tokens as CrossFormer does, unlike ImageNet's CrossFormer++."""

_base_ = "semantic_fpn_crossformer_s_80k.py"

model = dict(backbone=dict(model="crossformerpp_s", options=dict(groups=(7, 7, 7, 7), intervals=(8, 4, 2, 1))))
published = dict(method="SemanticFPN 80k", mIoU=47.4, source="cheerss/CrossFormer@7952010 README.md")
