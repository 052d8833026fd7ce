_base_ = "mask_rcnn_nat_mini_3x.py"

model = dict(backbone=dict(model="nat_t"))
published = dict(
    method="Mask RCNN 3x",
    box_mAP=47.7,
    mask_mAP=42.6,
    source="SHI-Labs/Neighborhood-Attention-Transformer@d334f5b NAT.md + DiNAT paper (arXiv 2209.15001) Tables 7, IV",
)
