_base_ = "upernet_transnext_t_160k.py"

model = dict(backbone=dict(model="transnext_s", drop_path_rate=0.6))
published = dict(method="UPerNet 160k", mIoU=52.2, source="DaiShiResearch/TransNeXt@c8a9974 README.md")
