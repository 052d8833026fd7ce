_base_ = "_base_/mask_rcnn_1x.py"

model = dict(backbone=dict(model="transnext_t", drop_path_rate=0.4))
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            ".query_embedding": dict(decay_mult=0.0),
            ".local_bias": dict(decay_mult=0.0),
            ".position.": dict(decay_mult=0.0),
            ".temperature": dict(decay_mult=0.0),
        },
        norm_decay_mult=0.0,
    )
)
published = dict(
    method="Mask RCNN 1x", box_mAP=49.9, mask_mAP=44.6, source="DaiShiResearch/TransNeXt@c8a9974 README.md"
)
