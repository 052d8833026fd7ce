_base_ = "retinanet_crossformer_s_1x.py"

model = dict(backbone=dict(model="crossformer_b", drop_path_rate=0.3))
published = dict(method="RetinaNet 1x", box_mAP=46.2, source="cheerss/CrossFormer@7952010 README.md")
