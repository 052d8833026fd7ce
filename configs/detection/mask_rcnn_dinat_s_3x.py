_base_ = "mask_rcnn_dinat_mini_3x.py"

model = dict(backbone=dict(model="dinat_s", drop_path_rate=0.35))
published = dict(
    method="Mask RCNN 3x",
    box_mAP=49.3,
    mask_mAP=44.0,
    source="SHI-Labs/Neighborhood-Attention-Transformer@d334f5b DiNAT.md + DiNAT paper (arXiv 2209.15001) Tables 7, IV",
)
