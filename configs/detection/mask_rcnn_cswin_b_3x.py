_base_ = "mask_rcnn_cswin_t_3x.py"

model = dict(backbone=dict(model="cswin_b", drop_path_rate=0.5))
published = dict(
    method="Mask RCNN 3x", box_mAP=50.8, mask_mAP=44.9, source="microsoft/CSWin-Transformer@f111ae2 README.md"
)
