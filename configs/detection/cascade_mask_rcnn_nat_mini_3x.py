_base_ = "_base_/cascade_mask_rcnn_3x.py"

model = dict(backbone=dict(model="nat_mini", drop_path_rate=0.2, out_norm="layer", out_norm_eps=1e-05))
optim_wrapper = dict(
    type="AmpOptimWrapper", paramwise_cfg=dict(custom_keys=dict(rpb=dict(decay_mult=0.0)), norm_decay_mult=0.0)
)
published = dict(
    method="Cascade Mask RCNN 3x",
    box_mAP=50.3,
    mask_mAP=43.6,
    source="SHI-Labs/Neighborhood-Attention-Transformer@d334f5b NAT.md + DiNAT paper (arXiv 2209.15001) Tables 7, IV",
)
