_base_ = "_base_/semantic_fpn_80k.py"

model = dict(
    backbone=dict(model="biformer_s", drop_path_rate=0.15, norm_eval=True, out_norm="layer", options=dict(regions=8))
)
train_dataloader = dict(batch_size=4)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=1000),
    dict(type="CosineAnnealingLR", eta_min_ratio=1e-08, by_epoch=False, begin=0, end=80000),
]
optim_wrapper = dict(type="AmpOptimWrapper", loss_scale=512.0, optimizer=dict(lr=0.0002))
auto_scale_lr = dict(base_batch_size=32)
published = dict(
    method="SemanticFPN 80k", mIoU=48.9, source="rayleizhu/BiFormer@1697bbb semantic_segmentation/README.md"
)
