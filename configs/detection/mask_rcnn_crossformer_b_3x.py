_base_ = "mask_rcnn_crossformer_s_3x.py"

model = dict(backbone=dict(model="crossformer_b", drop_path_rate=0.3))
published = dict(
    method="Mask RCNN 3x", box_mAP=49.8, mask_mAP=44.5, source="cheerss/CrossFormer@7952010 detection/README.md"
)
