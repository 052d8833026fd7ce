_base_ = "mask_rcnn_cswin_t_1x.py"

model = dict(backbone=dict(model="cswin_s", drop_path_rate=0.3))
published = dict(method="Mask RCNN 1x", box_mAP=47.9, mask_mAP=43.2, source="CSWin paper (arXiv 2107.00652) Table 4")
