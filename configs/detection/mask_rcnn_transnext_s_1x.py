_base_ = "mask_rcnn_transnext_t_1x.py"

model = dict(backbone=dict(model="transnext_s", drop_path_rate=0.6))
published = dict(
    method="Mask RCNN 1x", box_mAP=51.1, mask_mAP=45.5, source="DaiShiResearch/TransNeXt@c8a9974 README.md"
)
