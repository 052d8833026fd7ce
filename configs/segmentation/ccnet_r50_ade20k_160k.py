_base_ = ["_base_/ade20k.py", "_base_/ccnet.py"]

custom_imports = dict(imports=["backbones.openmm.criss_cross_head"])
train_dataloader = dict(batch_size=4)  # on each of 4 GPUs
train_cfg = dict(type="IterBasedTrainLoop", max_iters=160000, val_interval=16000)
param_scheduler = [dict(type="PolyLR", power=0.9, eta_min=1e-4, begin=0, end=160000, by_epoch=False)]
published = dict(
    method="mmseg CCNet 160k", mIoU=42.08, source="open-mmlab/mmsegmentation@0264de0 configs/ccnet/README.md"
)
