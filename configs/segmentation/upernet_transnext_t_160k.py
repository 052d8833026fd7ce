_base_ = "_base_/upernet_160k.py"

model = dict(
    backbone=dict(model="transnext_t", drop_path_rate=0.4),
    test_cfg=dict(mode="slide", crop_size=(512, 512), stride=(341, 341)),
)
optim_wrapper = dict(
    optimizer=dict(weight_decay=0.05),
    paramwise_cfg=dict(
        custom_keys={
            ".query_embedding": dict(decay_mult=0.0),
            ".local_bias": dict(decay_mult=0.0),
            ".position.": dict(decay_mult=0.0),
            ".temperature": dict(decay_mult=0.0),
        },
        norm_decay_mult=0.0,
    ),
)
published = dict(method="UPerNet 160k", mIoU=51.1, source="DaiShiResearch/TransNeXt@c8a9974 README.md")
