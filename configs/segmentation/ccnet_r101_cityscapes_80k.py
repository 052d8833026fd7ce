_base_ = "ccnet_r50_cityscapes_80k.py"

model = dict(backbone=dict(depth=101, init_cfg=dict(checkpoint="open-mmlab://resnet101_v1c")))
published = dict(
    method="mmseg CCNet 80k", mIoU=78.87, source="open-mmlab/mmsegmentation@0264de0 configs/ccnet/README.md"
)
