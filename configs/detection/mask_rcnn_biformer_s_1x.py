_base_ = "_base_/mask_rcnn_1x.py"

model = dict(
    backbone=dict(model="biformer_s", drop_path_rate=0.2, norm_eval=True, out_norm="layer", options=dict(regions=16))
)
optim_wrapper = dict(type="AmpOptimWrapper", paramwise_cfg=dict(custom_keys=dict(norm=dict(decay_mult=0.0))))
published = dict(
    method="Mask RCNN 1x", box_mAP=47.8, mask_mAP=43.2, source="rayleizhu/BiFormer@1697bbb object_detection/README.md"
)
