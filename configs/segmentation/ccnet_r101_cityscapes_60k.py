"""The official recipe: crops of 769 x 769 without distortion of colours, leaky ReLU in the heads.

The official run starts from another ImageNet checkpoint of the same trunk, whose images are BGR without a deviation;
mean and deviation here are those of mmseg's.
"""

_base_ = "ccnet_r101_cityscapes_80k.py"

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomResize", scale=(2048, 1024), ratio_range=(0.7, 2.1), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(769, 769)),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
leaky = dict(type="LeakyReLU", negative_slope=0.01)
model = dict(
    data_preprocessor=dict(size=(769, 769)),
    decode_head=dict(act_cfg=leaky, align_corners=True),
    auxiliary_head=dict(act_cfg=leaky, align_corners=True, channels=512),
)
train_cfg = dict(max_iters=60000, val_interval=6000)
param_scheduler = [dict(type="PolyLR", power=0.9, eta_min=0.0, begin=0, end=60000, by_epoch=False)]
optim_wrapper = dict(optimizer=dict(weight_decay=1e-4))
published = dict(method="CCNet R=2 60k", mIoU=79.74, source="speedinghzl/CCNet@1fae6c6 README.md")
del leaky
