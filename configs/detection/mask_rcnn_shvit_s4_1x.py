_base_ = "_base_/mask_rcnn_1x.py"

model = dict(
    backbone=dict(model="shvit_s4", norm_eval=True),
    neck=dict(_delete_=True, type="FinerFPN", out_channels=256, num_outs=5, num_finer=2),
)
custom_imports = dict(imports=["backbones.openmm", "backbones.openmm.finer_fpn"])
published = dict(
    method="Mask RCNN 1x", box_mAP=39.0, mask_mAP=35.9, source="ysj9909/SHViT@6a729cc downstream/README.md"
)
