_base_ = "_base_/upernet_160k.py"

model = dict(
    backbone=dict(
        model="dinat_mini",
        drop_path_rate=0.2,
        out_norm="layer",
        out_norm_eps=1e-05,
        options=dict(dilations=((1, 16), (1, 4, 1, 8), (1, 2, 1, 3, 1, 4), (1, 2))),
    )
)
optim_wrapper = dict(
    type="AmpOptimWrapper", paramwise_cfg=dict(custom_keys=dict(rpb=dict(decay_mult=0.0)), norm_decay_mult=0.0)
)
published = dict(
    method="UPerNet 160k",
    mIoU=45.8,
    source="SHI-Labs/Neighborhood-Attention-Transformer@d334f5b DiNAT.md + DiNAT paper (arXiv 2209.15001) Tables 8, VI",
)
