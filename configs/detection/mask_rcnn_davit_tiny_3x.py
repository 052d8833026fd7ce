_base_ = "_base_/mask_rcnn_3x.py"

model = dict(backbone=dict(model="davit_tiny", drop_path_rate=0.2, out_norm="layer", out_norm_eps=1e-05))
published = dict(method="Mask RCNN 3x", box_mAP=47.4, mask_mAP=42.9, source="dingmyu/davit@fc79470 README.md")
