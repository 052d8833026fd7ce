_base_ = "upernet_crossformer_s_160k.py"

model = dict(backbone=dict(model="crossformer_b", drop_path_rate=0.3))
published = dict(method="UPerNet 160k", mIoU=49.7, source="cheerss/CrossFormer@7952010 README.md")
