_base_ = ["_base_/coco_multiscale_boxes.py", "_base_/retinanet.py", "_base_/schedule_3x.py"]

model = dict(backbone=dict(model="davit_tiny", drop_path_rate=0.2, out_norm="layer", out_norm_eps=1e-05))
published = dict(method="RetinaNet 3x", box_mAP=46.5, source="dingmyu/davit@fc79470 README.md")
