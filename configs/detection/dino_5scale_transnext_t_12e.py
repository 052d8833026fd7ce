"""Published with one image on each GPU and two steps for every update. The official config means to train the whole
backbone at a tenth of the learning rate, as here; its patterns miss the last stage's embedding and norm.
"""

_base_ = "_base_/dino_5scale_12e.py"

model = dict(backbone=dict(model="transnext_t", drop_path_rate=0.3))
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            ".query_embedding": dict(decay_mult=0.0),
            ".local_bias": dict(decay_mult=0.0),
            ".position.": dict(decay_mult=0.0),
            ".temperature": dict(decay_mult=0.0),
        }
    )
)
published = dict(method="DINO 5scale 12ep", box_mAP=55.7, source="DaiShiResearch/TransNeXt@c8a9974 README.md")
