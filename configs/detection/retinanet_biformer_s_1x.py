_base_ = "_base_/retinanet_1x.py"

model = dict(
    backbone=dict(model="biformer_s", drop_path_rate=0.2, norm_eval=True, out_norm="layer", options=dict(regions=16))
)
optim_wrapper = dict(type="AmpOptimWrapper", loss_scale=512.0)
published = dict(method="RetinaNet 1x", box_mAP=45.9, source="rayleizhu/BiFormer@1697bbb object_detection/README.md")
