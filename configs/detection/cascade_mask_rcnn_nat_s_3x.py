_base_ = "cascade_mask_rcnn_nat_mini_3x.py"

model = dict(backbone=dict(model="nat_s", drop_path_rate=0.3))
published = dict(
    method="Cascade Mask RCNN 3x",
    box_mAP=52.0,
    mask_mAP=44.9,
    source="SHI-Labs/Neighborhood-Attention-Transformer@d334f5b NAT.md + DiNAT paper (arXiv 2209.15001) Tables 7, IV",
)
