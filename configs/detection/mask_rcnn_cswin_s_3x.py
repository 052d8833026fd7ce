_base_ = "mask_rcnn_cswin_t_3x.py"

model = dict(backbone=dict(model="cswin_s", drop_path_rate=0.3))
published = dict(
    method="Mask RCNN 3x", box_mAP=50.0, mask_mAP=44.5, source="microsoft/CSWin-Transformer@f111ae2 README.md"
)
