_base_ = "upernet_biformer_s_160k.py"

model = dict(backbone=dict(model="biformer_b", drop_path_rate=0.4))
published = dict(method="UPerNet 160k", mIoU=51.0, source="rayleizhu/BiFormer@1697bbb semantic_segmentation/README.md")
