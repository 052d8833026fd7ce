_base_ = "upernet_transnext_t_160k.py"

model = dict(backbone=dict(model="transnext_b", drop_path_rate=0.7))
published = dict(method="UPerNet 160k", mIoU=53.0, source="DaiShiResearch/TransNeXt@c8a9974 README.md")
