_base_ = "mask_rcnn_ravlt_t_1x.py"

model = dict(backbone=dict(model="ravlt_s", drop_path_rate=0.15))
published = dict(method="Mask RCNN 1x", box_mAP=49.8, mask_mAP=44.6, source="qhfan/RALA@a86314f README.md")
