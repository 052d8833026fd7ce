_base_ = "retinanet_ravlt_t_1x.py"

model = dict(backbone=dict(model="ravlt_b", drop_path_rate=0.4))
published = dict(method="RetinaNet 1x", box_mAP=49.8, source="qhfan/RALA@a86314f README.md")
