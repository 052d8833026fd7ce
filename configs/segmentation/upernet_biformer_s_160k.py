_base_ = "_base_/upernet_160k.py"

model = dict(
    backbone=dict(model="biformer_s", drop_path_rate=0.3, norm_eval=True, out_norm="layer", options=dict(regions=8))
)
optim_wrapper = dict(
    type="AmpOptimWrapper", loss_scale=512.0, paramwise_cfg=dict(custom_keys=dict(norm=dict(decay_mult=0.0)))
)
published = dict(method="UPerNet 160k", mIoU=49.8, source="rayleizhu/BiFormer@1697bbb semantic_segmentation/README.md")
