_base_ = "mask_rcnn_dinats_t_3x.py"

model = dict(backbone=dict(model="dinats_s", drop_path_rate=0.35))
published = dict(
    method="Mask RCNN 3x",
    box_mAP=48.6,
    mask_mAP=43.5,
    source="SHI-Labs/Neighborhood-Attention-Transformer@d334f5b DiNAT.md + DiNAT paper (arXiv 2209.15001) Tables 7, IV",
)
