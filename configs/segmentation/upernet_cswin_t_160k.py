_base_ = "_base_/upernet_160k.py"

model = dict(backbone=dict(model="cswin_t", drop_path_rate=0.3, out_norm="layer", out_norm_eps=1e-05))
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.0))
published = dict(
    method="UPerNet 160k",
    mIoU=49.3,
    source="microsoft/CSWin-Transformer@f111ae2 README.md + CSWin paper (arXiv 2107.00652) Tables 6, 7",
)
