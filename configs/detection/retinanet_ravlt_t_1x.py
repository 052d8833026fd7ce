_base_ = "_base_/retinanet_1x.py"

model = dict(backbone=dict(model="ravlt_t", drop_path_rate=0.1, norm_eval=True, out_norm="layer"))
optim_wrapper = dict(type="AmpOptimWrapper", loss_scale=512.0)
published = dict(method="RetinaNet 1x", box_mAP=45.9, source="qhfan/RALA@a86314f README.md")
