_base_ = "retinanet_ravlt_t_1x.py"

model = dict(backbone=dict(model="ravlt_l", drop_path_rate=0.55))
published = dict(method="RetinaNet 1x", box_mAP=50.9, source="qhfan/RALA@a86314f README.md")
