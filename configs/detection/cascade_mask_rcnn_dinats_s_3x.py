_base_ = "cascade_mask_rcnn_dinats_t_3x.py"

model = dict(backbone=dict(model="dinats_s", drop_path_rate=0.5))
published = dict(
    method="Cascade Mask RCNN 3x",
    box_mAP=52.3,
    mask_mAP=45.2,
    source="SHI-Labs/Neighborhood-Attention-Transformer@d334f5b DiNAT.md + DiNAT paper (arXiv 2209.15001) Tables 7, IV",
)
