_base_ = "upernet_ravlt_s_160k.py"

model = dict(backbone=dict(model="ravlt_l", drop_path_rate=0.55))
published = dict(method="UPerNet 160k", mIoU=53.2, source="qhfan/RALA@a86314f README.md")
