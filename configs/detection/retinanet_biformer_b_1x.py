_base_ = "retinanet_biformer_s_1x.py"

model = dict(backbone=dict(model="biformer_b", drop_path_rate=0.3))
published = dict(method="RetinaNet 1x", box_mAP=47.1, source="rayleizhu/BiFormer@1697bbb object_detection/README.md")
