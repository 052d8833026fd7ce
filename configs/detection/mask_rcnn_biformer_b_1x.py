_base_ = "mask_rcnn_biformer_s_1x.py"

model = dict(backbone=dict(model="biformer_b", drop_path_rate=0.3))
published = dict(
    method="Mask RCNN 1x", box_mAP=48.6, mask_mAP=43.7, source="rayleizhu/BiFormer@1697bbb object_detection/README.md"
)
