_base_ = "mask_rcnn_nat_mini_3x.py"

model = dict(backbone=dict(model="nat_s", drop_path_rate=0.35))
published = dict(
    method="Mask RCNN 3x",
    box_mAP=48.4,
    mask_mAP=43.2,
    source="SHI-Labs/Neighborhood-Attention-Transformer@d334f5b NAT.md + DiNAT paper (arXiv 2209.15001) Tables 7, IV",
)
