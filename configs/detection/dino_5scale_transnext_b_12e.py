_base_ = "dino_5scale_transnext_t_12e.py"

model = dict(backbone=dict(model="transnext_b", drop_path_rate=0.6))
published = dict(method="DINO 5scale 12ep", box_mAP=57.1, source="DaiShiResearch/TransNeXt@c8a9974 README.md")
