"""160k iterations of AdamW, as Swin Transformer's authors train UPerNet."""

train_cfg = dict(type="IterBasedTrainLoop", max_iters=160000, val_interval=16000)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type="PolyLR", power=1.0, eta_min=0.0, begin=1500, end=160000, by_epoch=False),
]
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=6e-5, weight_decay=0.01))
auto_scale_lr = dict(enable=False, base_batch_size=16)
