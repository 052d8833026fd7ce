_base_ = "mask_rcnn_ravlt_s_3x.py"

model = dict(backbone=dict(model="ravlt_b", drop_path_rate=0.4))
published = dict(method="Mask RCNN 3x", box_mAP=52.7, mask_mAP=46.4, source="qhfan/RALA@a86314f README.md")
