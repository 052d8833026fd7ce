"""From ImageNet-22K, 640 x 640."""

_base_ = "_base_/upernet_640_160k.py"

model = dict(
    backbone=dict(
        model="dinats_l",
        drop_path_rate=0.3,
        pretrained="in22k",
        out_norm="layer",
        out_norm_eps=1e-05,
        options=dict(dilations=((1, 20), (1, 10), (1, 2, 1, 3, 1, 4, 1, 5, 1, 2, 1, 3, 1, 4, 1, 5, 1, 5), (1, 2))),
    )
)
optim_wrapper = dict(
    type="AmpOptimWrapper", paramwise_cfg=dict(custom_keys=dict(rpb=dict(decay_mult=0.0)), norm_decay_mult=0.0)
)
published = dict(
    method="UPerNet 160k",
    mIoU=53.4,
    source="SHI-Labs/Neighborhood-Attention-Transformer@d334f5b DiNAT.md + DiNAT paper (arXiv 2209.15001) Tables 8, VI",
)
