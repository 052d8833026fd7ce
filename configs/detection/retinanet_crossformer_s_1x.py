_base_ = "_base_/retinanet_1x.py"

model = dict(backbone=dict(model="crossformer_s", drop_path_rate=0.2))
published = dict(method="RetinaNet 1x", box_mAP=44.4, source="cheerss/CrossFormer@7952010 README.md")
