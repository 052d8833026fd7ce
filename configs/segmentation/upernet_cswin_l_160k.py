"""From ImageNet-22K, 640 x 640. The result is published, a config is not: stochastic depth is that of CSWin-B."""

_base_ = "_base_/upernet_640_160k.py"

model = dict(
    backbone=dict(model="cswin_l", drop_path_rate=0.6, pretrained="in22k", out_norm="layer", out_norm_eps=1e-05)
)
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.0))
published = dict(method="UPerNet 160k", mIoU=53.4, source="microsoft/CSWin-Transformer@f111ae2 README.md")
