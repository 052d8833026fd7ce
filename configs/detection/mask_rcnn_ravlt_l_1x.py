_base_ = "mask_rcnn_ravlt_t_1x.py"

model = dict(backbone=dict(model="ravlt_l", drop_path_rate=0.55))
published = dict(method="Mask RCNN 1x", box_mAP=52.3, mask_mAP=46.4, source="qhfan/RALA@a86314f README.md")
