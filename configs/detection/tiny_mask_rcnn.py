"""The digits of tools/tiny_datasets.py, from scratch, in minutes on a CPU: a small backbone of three maps."""

_base_ = "_base_/mask_rcnn_1x.py"

strides = [16, 32, 64]
classes = dict(classes=("0", "1", "4"))
regions = dict(out_channels=64, featmap_strides=strides, finest_scale=48)
model = dict(
    backbone=dict(model="shvit_s1", pretrained=False),
    neck=dict(out_channels=64, num_outs=4),
    rpn_head=dict(in_channels=64, feat_channels=64, anchor_generator=dict(scales=[3], strides=[*strides, 128])),
    roi_head=dict(
        bbox_roi_extractor=regions,
        bbox_head=dict(in_channels=64, fc_out_channels=256, num_classes=3),
        mask_roi_extractor=regions,
        mask_head=dict(in_channels=64, conv_out_channels=64, num_convs=2, num_classes=3),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)), rpn_proposal=dict(nms_pre=200, max_per_img=100), rcnn=dict(sampler=dict(num=64))
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100)),
)

data_root = "data/tiny/coco/"
resize = dict(type="Resize", scale=(192, 192), keep_ratio=True)
annotations = dict(type="LoadAnnotations", with_bbox=True, with_mask=True)
train_pipeline = [dict(type="LoadImageFromFile"), annotations, resize, dict(type="PackDetInputs")]
kept = "img_id", "img_path", "ori_shape", "img_shape", "scale_factor"
test_pipeline = [dict(type="LoadImageFromFile"), resize, annotations, dict(type="PackDetInputs", meta_keys=kept)]
train_dataloader = dict(
    batch_size=8, num_workers=1, dataset=dict(data_root=data_root, metainfo=classes, pipeline=train_pipeline)
)
val_dataloader = dict(
    batch_size=8, num_workers=1, dataset=dict(data_root=data_root, metainfo=classes, pipeline=test_pipeline)
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + "annotations/instances_val2017.json")
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=8, val_interval=4)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(type="CosineAnnealingLR", T_max=8, convert_to_iter_based=True),
]
optim_wrapper = dict(optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=10.0))
default_hooks = dict(logger=dict(interval=25))
del strides, classes, regions, resize, annotations, kept
