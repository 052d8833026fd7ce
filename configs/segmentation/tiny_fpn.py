"""The digits of tools/tiny_datasets.py, from scratch, in minutes on a CPU: a small backbone of coarse maps."""

_base_ = "_base_/semantic_fpn_80k.py"
custom_imports = dict(imports=["backbones.openmm", "backbones.openmm.finer_fpn"])

classes = dict(
    classes=("photograph", "0", "1", "4"), palette=[(90, 90, 90), (230, 60, 60), (60, 200, 60), (70, 110, 255)]
)
model = dict(
    data_preprocessor=dict(size=(192, 192)),
    backbone=dict(model="shvit_s1", pretrained=False),
    neck=dict(_delete_=True, type="FinerFPN", out_channels=64, num_outs=4, num_finer=1),
    decode_head=dict(
        in_channels=[64] * 4,
        feature_strides=[8, 16, 32, 64],
        channels=64,
        num_classes=4,
        dropout_ratio=0.0,
        norm_cfg=dict(_delete_=True, type="GN", num_groups=8),
        loss_decode=dict(class_weight=[0.2, 1.0, 1.0, 1.0]),  # nine pixels of ten are photograph
    ),
)

data_root = "data/tiny/ade20k/"
tiny = dict(type="BaseSegDataset", data_root=data_root, metainfo=classes, reduce_zero_label=True)
load, labels = dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")
train_pipeline = [
    load,
    labels,
    dict(type="RandomResize", scale=(192, 192), ratio_range=(0.8, 1.25), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(192, 192)),
    dict(type="PackSegInputs"),
]
test_pipeline = [load, dict(type="Resize", scale=(192, 192), keep_ratio=True), labels, dict(type="PackSegInputs")]
train_dataloader = dict(batch_size=8, num_workers=1, dataset=dict(**tiny, pipeline=train_pipeline))
val_dataloader = dict(num_workers=1, dataset=dict(**tiny, pipeline=test_pipeline))
test_dataloader = val_dataloader

train_cfg = dict(max_iters=400, val_interval=200)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=20),
    dict(type="PolyLR", power=0.9, begin=20, end=400, by_epoch=False),
]
optim_wrapper = dict(optimizer=dict(lr=2e-3), clip_grad=dict(max_norm=10.0))
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=200))
del classes, tiny, load, labels
