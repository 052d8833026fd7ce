"""36 epochs of AdamW; the learning rate falls tenfold after 27 and 33."""

_base_ = "schedule_1x.py"

train_cfg = dict(max_epochs=36)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type="MultiStepLR", milestones=[27, 33], gamma=0.1),
]
