"""Cityscapes, crops of 512 x 1024: data and evaluation; whole images of 1024 x 2048 in validation."""

_base_ = "ade20k.py"

data_root = "data/cityscapes/"
image, labels = dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")
train_pipeline = [
    image,
    labels,
    dict(type="RandomResize", scale=(2048, 1024), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(512, 1024), cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
test_pipeline = [image, dict(type="Resize", scale=(2048, 1024), keep_ratio=True), labels, dict(type="PackSegInputs")]
train_dataloader = dict(
    dataset=dict(
        type="CityscapesDataset",
        data_root=data_root,
        data_prefix=dict(img_path="leftImg8bit/train", seg_map_path="gtFine/train"),
        pipeline=train_pipeline,
    )
)
val_dataloader = dict(
    dataset=dict(
        type="CityscapesDataset",
        data_root=data_root,
        data_prefix=dict(img_path="leftImg8bit/val", seg_map_path="gtFine/val"),
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader
tta_pipeline = [dict(step) for step in _base_.tta_pipeline]
scales, flips, _, pack = tta_pipeline[1]["transforms"]
tta_pipeline[1] = dict(type="TestTimeAug", transforms=[scales, flips, [labels], pack])
del image, labels, scales, flips, pack
