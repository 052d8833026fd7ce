"""Without mixed precision, as published."""

_base_ = "cascade_mask_rcnn_dinat_mini_3x.py"

model = dict(backbone=dict(model="dinat_l", drop_path_rate=0.6, pretrained="in22k"))
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(lr=7.5e-05))
published = dict(
    method="Cascade Mask RCNN 3x",
    box_mAP=55.3,
    mask_mAP=47.8,
    source="SHI-Labs/Neighborhood-Attention-Transformer@d334f5b DiNAT.md + DiNAT paper (arXiv 2209.15001) Tables 7, IV",
)
