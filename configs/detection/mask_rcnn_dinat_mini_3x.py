_base_ = "_base_/mask_rcnn_3x.py"

model = dict(
    backbone=dict(
        model="dinat_mini",
        drop_path_rate=0.2,
        out_norm="layer",
        out_norm_eps=1e-05,
        options=dict(dilations=((1, 28), (1, 7, 1, 14), (1, 3, 1, 5, 1, 7), (1, 3))),
    )
)
optim_wrapper = dict(
    type="AmpOptimWrapper", paramwise_cfg=dict(custom_keys=dict(rpb=dict(decay_mult=0.0)), norm_decay_mult=0.0)
)
published = dict(
    method="Mask RCNN 3x",
    box_mAP=47.2,
    mask_mAP=42.5,
    source="SHI-Labs/Neighborhood-Attention-Transformer@d334f5b DiNAT.md + DiNAT paper (arXiv 2209.15001) Tables 7, IV",
)
