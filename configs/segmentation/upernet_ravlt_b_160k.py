_base_ = "upernet_ravlt_s_160k.py"

model = dict(backbone=dict(model="ravlt_b", drop_path_rate=0.4))
published = dict(method="UPerNet 160k", mIoU=52.5, source="qhfan/RALA@a86314f README.md")
