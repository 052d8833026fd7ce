"""Multi-scale although 1x, as published."""

_base_ = ["_base_/coco_multiscale.py", "_base_/mask_rcnn.py", "_base_/schedule_1x.py"]

model = dict(backbone=dict(model="davit_tiny", drop_path_rate=0.1, out_norm="layer", out_norm_eps=1e-05))
published = dict(method="Mask RCNN 1x", box_mAP=45.0, mask_mAP=41.1, source="dingmyu/davit@fc79470 README.md")
