_base_ = "cascade_mask_rcnn_ravlt_s_3x.py"

model = dict(backbone=dict(model="ravlt_b", drop_path_rate=0.4))
published = dict(method="Cascade Mask RCNN 3x", box_mAP=55.3, mask_mAP=47.7, source="qhfan/RALA@a86314f README.md")
