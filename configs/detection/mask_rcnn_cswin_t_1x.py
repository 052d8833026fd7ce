"""The paper gives the settings, no code; norms of the maps are those of the official segmentors."""

_base_ = "_base_/mask_rcnn_1x.py"

model = dict(backbone=dict(model="cswin_t", drop_path_rate=0.1, out_norm="layer", out_norm_eps=1e-05))
published = dict(method="Mask RCNN 1x", box_mAP=46.7, mask_mAP=42.2, source="CSWin paper (arXiv 2107.00652) Table 4")
