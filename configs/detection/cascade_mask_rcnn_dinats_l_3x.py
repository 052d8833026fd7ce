_base_ = "cascade_mask_rcnn_dinats_t_3x.py"

model = dict(backbone=dict(model="dinats_l", drop_path_rate=0.6, pretrained="in22k"))
optim_wrapper = dict(optimizer=dict(lr=5e-05))
published = dict(
    method="Cascade Mask RCNN 3x",
    box_mAP=54.8,
    mask_mAP=47.2,
    source="SHI-Labs/Neighborhood-Attention-Transformer@d334f5b DiNAT.md + DiNAT paper (arXiv 2209.15001) Tables 7, IV",
)
