_base_ = "cascade_mask_rcnn_cswin_t_3x.py"

model = dict(backbone=dict(model="cswin_s", drop_path_rate=0.3))
published = dict(
    method="Cascade Mask RCNN 3x",
    box_mAP=53.7,
    mask_mAP=46.4,
    source="microsoft/CSWin-Transformer@f111ae2 README.md + CSWin paper (arXiv 2107.00652) Tables 5, 7",
)
