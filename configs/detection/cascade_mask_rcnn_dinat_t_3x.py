_base_ = "cascade_mask_rcnn_dinat_mini_3x.py"

model = dict(backbone=dict(model="dinat_t", drop_path_rate=0.3))
published = dict(
    method="Cascade Mask RCNN 3x",
    box_mAP=52.2,
    mask_mAP=45.1,
    source="SHI-Labs/Neighborhood-Attention-Transformer@d334f5b DiNAT.md + DiNAT paper (arXiv 2209.15001) Tables 7, IV",
)
