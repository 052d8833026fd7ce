"""COCO with the multi-scale training of DETR: short side 480 to 800, or that of a random crop."""

_base_ = "coco.py"

short = dict(type="RandomChoiceResize", scales=[(side, 1333) for side in range(480, 801, 32)], keep_ratio=True)
cropped = [
    dict(type="RandomChoiceResize", scales=[(400, 4200), (500, 4200), (600, 4200)], keep_ratio=True),
    dict(type="RandomCrop", crop_type="absolute_range", crop_size=(384, 600), allow_negative_crop=True),
    short,
]
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="RandomChoice", transforms=[[short], cropped]),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
del short, cropped
