_base_ = ["_base_/cityscapes.py", "_base_/ccnet.py"]

custom_imports = dict(imports=["backbones.openmm.criss_cross_head"])
model = dict(
    data_preprocessor=dict(size=(512, 1024)), decode_head=dict(num_classes=19), auxiliary_head=dict(num_classes=19)
)
train_dataloader = dict(batch_size=2)  # on each of 4 GPUs
train_cfg = dict(type="IterBasedTrainLoop", max_iters=80000, val_interval=8000)
param_scheduler = [dict(type="PolyLR", power=0.9, eta_min=1e-4, begin=0, end=80000, by_epoch=False)]
published = dict(
    method="mmseg CCNet 80k", mIoU=79.03, source="open-mmlab/mmsegmentation@0264de0 configs/ccnet/README.md"
)
