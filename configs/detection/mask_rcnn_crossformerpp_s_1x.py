"""The official detectors and segmentors group tokens as CrossFormer does, unlike ImageNet's CrossFormer++."""

_base_ = "mask_rcnn_crossformer_s_1x.py"

model = dict(backbone=dict(model="crossformerpp_s", options=dict(groups=(7, 7, 7, 7), intervals=(8, 4, 2, 1))))
published = dict(method="Mask RCNN 1x", box_mAP=46.4, mask_mAP=42.1, source="cheerss/CrossFormer@7952010 README.md")
