_base_ = "ccnet_r50_ade20k_160k.py"

model = dict(backbone=dict(depth=101, init_cfg=dict(checkpoint="open-mmlab://resnet101_v1c")))
published = dict(
    method="mmseg CCNet 160k", mIoU=43.71, source="open-mmlab/mmsegmentation@0264de0 configs/ccnet/README.md"
)
