_base_ = "_base_/upernet_160k.py"

model = dict(backbone=dict(model="crossformer_s", drop_path_rate=0.2))
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.0))
published = dict(method="UPerNet 160k", mIoU=47.6, source="cheerss/CrossFormer@7952010 README.md")
