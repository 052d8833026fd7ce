"""The paper gives the settings, no code; norms of the maps are those of the official segmentors."""

_base_ = "_base_/cascade_mask_rcnn_3x.py"

model = dict(backbone=dict(model="cswin_t", drop_path_rate=0.1, out_norm="layer", out_norm_eps=1e-05))
published = dict(
    method="Cascade Mask RCNN 3x",
    box_mAP=52.5,
    mask_mAP=45.3,
    source="microsoft/CSWin-Transformer@f111ae2 README.md + CSWin paper (arXiv 2107.00652) Tables 5, 7",
)
