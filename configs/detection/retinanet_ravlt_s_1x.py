_base_ = "retinanet_ravlt_t_1x.py"

model = dict(backbone=dict(model="ravlt_s", drop_path_rate=0.15))
published = dict(method="RetinaNet 1x", box_mAP=48.3, source="qhfan/RALA@a86314f README.md")
