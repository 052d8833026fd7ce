_base_ = "mask_rcnn_ravlt_t_1x.py"

model = dict(backbone=dict(model="ravlt_b", drop_path_rate=0.4))
published = dict(method="Mask RCNN 1x", box_mAP=51.2, mask_mAP=45.7, source="qhfan/RALA@a86314f README.md")
