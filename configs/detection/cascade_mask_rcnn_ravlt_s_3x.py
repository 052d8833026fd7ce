_base_ = "_base_/cascade_mask_rcnn_3x.py"

model = dict(backbone=dict(model="ravlt_s", drop_path_rate=0.15, norm_eval=True, out_norm="layer"))
optim_wrapper = dict(type="AmpOptimWrapper", paramwise_cfg=dict(norm_decay_mult=0.0))
published = dict(method="Cascade Mask RCNN 3x", box_mAP=54.2, mask_mAP=46.8, source="qhfan/RALA@a86314f README.md")
