"""The digits of tools/tiny_datasets.py, from scratch, in minutes on a CPU."""

_base_ = "_base_/semantic_fpn_80k.py"

classes = dict(
    classes=("photograph", "0", "1", "4"), palette=[(90, 90, 90), (230, 60, 60), (60, 200, 60), (70, 110, 255)]
)
model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(model="biformer_t", pretrained=False),
    neck=dict(out_channels=64),
    decode_head=dict(
        in_channels=[64] * 4,
        channels=64,
        num_classes=4,
        dropout_ratio=0.0,
        norm_cfg=dict(_delete_=True, type="GN", num_groups=8),
    ),
)

data_root = "data/tiny/ade20k/"
tiny = dict(type="BaseSegDataset", data_root=data_root, metainfo=classes, reduce_zero_label=True)
load, labels = dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", reduce_zero_label=True)
train_pipeline = [
    load,
    labels,
    dict(type="RandomResize", scale=(128, 128), ratio_range=(0.8, 1.25), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(128, 128)),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
test_pipeline = [load, dict(type="Resize", scale=(128, 128), keep_ratio=True), labels, dict(type="PackSegInputs")]
train_dataloader = dict(batch_size=8, num_workers=1, dataset=dict(**tiny, pipeline=train_pipeline))
val_dataloader = dict(num_workers=1, dataset=dict(**tiny, pipeline=test_pipeline))
test_dataloader = val_dataloader

train_cfg = dict(max_iters=200, val_interval=100)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(type="PolyLR", power=0.9, begin=30, end=200, by_epoch=False),
]
optim_wrapper = dict(optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=10.0))
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(interval=100))
del classes, tiny, load, labels
