_base_ = "_base_/mask_rcnn_1x.py"

model = dict(backbone=dict(model="ravlt_t", drop_path_rate=0.1, norm_eval=True, out_norm="layer"))
optim_wrapper = dict(type="AmpOptimWrapper", paramwise_cfg=dict(norm_decay_mult=0.0))
published = dict(method="Mask RCNN 1x", box_mAP=47.3, mask_mAP=42.7, source="qhfan/RALA@a86314f README.md")
