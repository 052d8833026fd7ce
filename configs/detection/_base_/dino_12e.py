"""DINO on COCO, 12 epochs (https://arxiv.org/abs/2203.03605), in mmdet's settings; four levels of stages 2 to 4."""

_base_ = ["coco_multiscale_boxes.py", "schedule_1x.py"]

attention = dict(embed_dims=256, dropout=0.0)
mlp = dict(embed_dims=256, feedforward_channels=2048, ffn_drop=0.0)
model = dict(
    type="ZooModel",
    method="DINO",
    num_queries=900,
    with_box_refine=True,
    as_two_stage=True,
    num_feature_levels=4,
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=1,
    ),
    backbone=dict(type="ZooBackbone", pretrained=True, out_indices=(1, 2, 3)),
    neck=dict(
        type="ChannelMapper",
        kernel_size=1,
        out_channels=256,
        act_cfg=None,
        norm_cfg=dict(type="GN", num_groups=32),
        num_outs=4,
    ),
    encoder=dict(num_layers=6, layer_cfg=dict(self_attn_cfg=dict(attention, num_levels=4), ffn_cfg=mlp)),
    decoder=dict(
        num_layers=6,
        return_intermediate=True,
        layer_cfg=dict(
            self_attn_cfg=dict(attention, num_heads=8),
            cross_attn_cfg=dict(attention, num_levels=4),
            ffn_cfg=mlp,
        ),
        post_norm_cfg=None,
    ),
    positional_encoding=dict(num_feats=128, normalize=True, offset=0.0, temperature=20),
    bbox_head=dict(
        type="DINOHead",
        num_classes=80,
        sync_cls_avg_factor=True,
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type="L1Loss", loss_weight=5.0),
        loss_iou=dict(type="GIoULoss", loss_weight=2.0),
    ),
    dn_cfg=dict(
        label_noise_scale=0.5, box_noise_scale=1.0, group_cfg=dict(dynamic=True, num_groups=None, num_dn_queries=100)
    ),
    train_cfg=dict(
        assigner=dict(
            type="HungarianAssigner",
            match_costs=[
                dict(type="FocalLossCost", weight=2.0),
                dict(type="BBoxL1Cost", weight=5.0, box_format="xywh"),
                dict(type="IoUCost", iou_mode="giou", weight=2.0),
            ],
        )
    ),
    test_cfg=dict(max_per_img=300),
)
train_pipeline = [dict(step) for step in _base_.train_pipeline]
whole, (larger, *cropped) = train_pipeline[3]["transforms"]
larger = dict(larger, scales=[(400, 4200), (500, 4200), (600, 4200)])
train_pipeline[3] = dict(type="RandomChoice", transforms=[whole, [larger, *cropped]])
train_dataloader = dict(dataset=dict(filter_cfg=dict(filter_empty_gt=False), pipeline=train_pipeline))
param_scheduler = [dict(type="MultiStepLR", milestones=[11], gamma=0.1)]
optim_wrapper = dict(
    constructor="LayerDecay",
    clip_grad=dict(max_norm=0.1, norm_type=2),
    paramwise_cfg=dict(backbone_lr_mult=0.1, norm_decay_mult=0.0, bias_decay_mult=0.0),
)
del attention, mlp, whole, larger, cropped
