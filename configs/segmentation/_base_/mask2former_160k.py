"""Mask2Former on ADE20K, 160k iterations of AdamW (https://arxiv.org/abs/2112.01527), in mmseg's settings."""

_base_ = "ade20k.py"

custom_imports = dict(imports=["backbones.openmm", "mmdet.models"])
mlp = dict(embed_dims=256, num_fcs=2, ffn_drop=0.0, act_cfg=dict(type="ReLU", inplace=True))
attention = dict(embed_dims=256, num_heads=8, attn_drop=0.0, proj_drop=0.0, dropout_layer=None, batch_first=True)
positions = dict(num_feats=128, normalize=True)
model = dict(
    type="ZooModel",
    method="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        size=(512, 512),
        test_cfg=dict(size_divisor=32),
        pad_val=0,
        seg_pad_val=255,
    ),
    backbone=dict(type="ZooBackbone", pretrained=True),
    decode_head=dict(
        type="Mask2FormerHead",
        strides=[4, 8, 16, 32],
        feat_channels=256,
        out_channels=256,
        num_classes=150,
        num_queries=100,
        num_transformer_feat_level=3,
        align_corners=False,
        pixel_decoder=dict(
            type="mmdet.MSDeformAttnPixelDecoder",
            num_outs=3,
            norm_cfg=dict(type="GN", num_groups=32),
            act_cfg=dict(type="ReLU"),
            encoder=dict(
                num_layers=6,
                layer_cfg=dict(
                    self_attn_cfg=dict(embed_dims=256, num_heads=8, num_levels=3, num_points=4, batch_first=True),
                    ffn_cfg=dict(mlp, feedforward_channels=1024),
                ),
            ),
            positional_encoding=positions,
        ),
        enforce_decoder_input_project=False,
        positional_encoding=positions,
        transformer_decoder=dict(
            return_intermediate=True,
            num_layers=9,
            layer_cfg=dict(
                self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=dict(mlp, feedforward_channels=2048)
            ),
        ),
        loss_cls=dict(
            type="mmdet.CrossEntropyLoss",
            use_sigmoid=False,
            loss_weight=2.0,
            reduction="mean",
            class_weight=[1.0] * 150 + [0.1],
        ),
        loss_mask=dict(type="mmdet.CrossEntropyLoss", use_sigmoid=True, reduction="mean", loss_weight=5.0),
        loss_dice=dict(
            type="mmdet.DiceLoss",
            use_sigmoid=True,
            activate=True,
            reduction="mean",
            naive_dice=True,
            eps=1.0,
            loss_weight=5.0,
        ),
        train_cfg=dict(
            num_points=12544,
            oversample_ratio=3.0,
            importance_sample_ratio=0.75,
            assigner=dict(
                type="mmdet.HungarianAssigner",
                match_costs=[
                    dict(type="mmdet.ClassificationCost", weight=2.0),
                    dict(type="mmdet.CrossEntropyLossCost", weight=5.0, use_sigmoid=True),
                    dict(type="mmdet.DiceCost", weight=5.0, pred_act=True, eps=1.0),
                ],
            ),
            sampler=dict(type="mmdet.MaskPseudoSampler"),
        ),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)
train_pipeline = [dict(step) for step in _base_.train_pipeline]
train_pipeline[2] = dict(
    type="RandomChoiceResize",
    scales=[int(512 * x * 0.1) for x in range(5, 21)],
    resize_type="ResizeShortestEdge",
    max_size=2048,
)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
train_cfg = dict(type="IterBasedTrainLoop", max_iters=160000, val_interval=8000)
param_scheduler = [dict(type="PolyLR", power=0.9, eta_min=0.0, begin=0, end=160000, by_epoch=False)]
undecayed = dict(decay_mult=0.0)
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="LayerDecay",
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.05),
    clip_grad=dict(max_norm=0.01, norm_type=2),
    paramwise_cfg=dict(
        backbone_lr_mult=0.1,
        norm_decay_mult=0.0,
        custom_keys=dict(query_embed=undecayed, query_feat=undecayed, level_embed=undecayed),
    ),
)
auto_scale_lr = dict(enable=False, base_batch_size=16)
del mlp, attention, positions, undecayed
