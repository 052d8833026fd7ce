_base_ = "cascade_mask_rcnn_ravlt_s_3x.py"

model = dict(backbone=dict(model="ravlt_l", drop_path_rate=0.55))
published = dict(method="Cascade Mask RCNN 3x", box_mAP=55.6, mask_mAP=48.0, source="qhfan/RALA@a86314f README.md")
