_base_ = "mask_rcnn_cswin_t_1x.py"

model = dict(backbone=dict(model="cswin_b", drop_path_rate=0.5))
published = dict(method="Mask RCNN 1x", box_mAP=48.7, mask_mAP=43.9, source="CSWin paper (arXiv 2107.00652) Table 4")
