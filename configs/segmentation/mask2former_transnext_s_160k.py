_base_ = "mask2former_transnext_t_160k.py"

model = dict(backbone=dict(model="transnext_s", drop_path_rate=0.5))
published = dict(method="Mask2Former 160k", mIoU=54.1, source="DaiShiResearch/TransNeXt@c8a9974 README.md")
