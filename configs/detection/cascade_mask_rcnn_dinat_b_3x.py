_base_ = "cascade_mask_rcnn_dinat_mini_3x.py"

model = dict(backbone=dict(model="dinat_b", drop_path_rate=0.6))
optim_wrapper = dict(optimizer=dict(lr=7.5e-05))
published = dict(
    method="Cascade Mask RCNN 3x",
    box_mAP=53.4,
    mask_mAP=46.2,
    source="SHI-Labs/Neighborhood-Attention-Transformer@d334f5b DiNAT.md + DiNAT paper (arXiv 2209.15001) Tables 7, IV",
)
