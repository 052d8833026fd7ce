_base_ = "_base_/upernet_160k.py"

model = dict(backbone=dict(model="ravlt_s", drop_path_rate=0.15, norm_eval=True, out_norm="layer"))
optim_wrapper = dict(type="AmpOptimWrapper", loss_scale=512.0, paramwise_cfg=dict(norm_decay_mult=0.0))
published = dict(method="UPerNet 160k", mIoU=50.7, source="qhfan/RALA@a86314f README.md")
