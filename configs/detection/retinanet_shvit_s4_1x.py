_base_ = "_base_/retinanet_1x.py"

model = dict(
    backbone=dict(model="shvit_s4", norm_eval=True),
    neck=dict(_delete_=True, type="FinerFPN", out_channels=256, num_outs=5, num_finer=1),
)
custom_imports = dict(imports=["backbones.openmm", "backbones.openmm.finer_fpn"])
optim_wrapper = dict(optimizer=dict(weight_decay=0.05))
published = dict(method="RetinaNet 1x", box_mAP=38.8, source="ysj9909/SHViT@6a729cc downstream/README.md")
