"""UPerNet (https://arxiv.org/abs/1807.10221) with an auxiliary head on the third stage, in mmseg's settings."""

common = dict(num_classes=150, norm_cfg=dict(type="SyncBN", requires_grad=True), align_corners=False, dropout_ratio=0.1)
model = dict(
    type="ZooModel",
    method="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        size=(512, 512),
        pad_val=0,
        seg_pad_val=255,
    ),
    backbone=dict(type="ZooBackbone", pretrained=True),
    decode_head=dict(
        type="UPerHead",
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=512,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
        **common,
    ),
    auxiliary_head=dict(
        type="FCNHead",
        in_index=2,
        channels=256,
        num_convs=1,
        concat_input=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=0.4),
        **common,
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)
del common
