_base_ = "mask_rcnn_crossformer_s_1x.py"

model = dict(backbone=dict(model="crossformer_b", drop_path_rate=0.3))
published = dict(method="Mask RCNN 1x", box_mAP=47.2, mask_mAP=42.7, source="cheerss/CrossFormer@7952010 README.md")
