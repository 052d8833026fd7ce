"""Multi-scale although 1x, as published."""

_base_ = ["_base_/coco_multiscale_boxes.py", "_base_/retinanet.py", "_base_/schedule_1x.py"]

model = dict(backbone=dict(model="davit_tiny", drop_path_rate=0.1, out_norm="layer", out_norm_eps=1e-05))
published = dict(method="RetinaNet 1x", box_mAP=44.0, source="dingmyu/davit@fc79470 README.md")
