_base_ = "upernet_crossformer_s_160k.py"

model = dict(backbone=dict(model="crossformer_l", drop_path_rate=0.5))
published = dict(method="UPerNet 160k", mIoU=50.4, source="cheerss/CrossFormer@7952010 README.md")
