_base_ = "mask_rcnn_transnext_t_1x.py"

model = dict(backbone=dict(model="transnext_b", drop_path_rate=0.7))
optim_wrapper = dict(type="AmpOptimWrapper", loss_scale=512.0)
published = dict(
    method="Mask RCNN 1x", box_mAP=51.7, mask_mAP=45.9, source="DaiShiResearch/TransNeXt@c8a9974 README.md"
)
