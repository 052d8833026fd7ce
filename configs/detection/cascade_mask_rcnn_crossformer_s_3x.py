"""Results of 3x are published, their configs are not: these are the settings of 1x."""

_base_ = "_base_/cascade_mask_rcnn_3x.py"

model = dict(backbone=dict(model="crossformer_s", drop_path_rate=0.2))
optim_wrapper = dict(optimizer=dict(weight_decay=0.0001))
published = dict(
    method="Cascade Mask RCNN 3x", box_mAP=52.2, mask_mAP=45.2, source="cheerss/CrossFormer@7952010 detection/README.md"
)
