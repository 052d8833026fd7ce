"""The paper gives the settings, no code; norms of the maps are those of the official segmentors."""

_base_ = "_base_/mask_rcnn_3x.py"

model = dict(backbone=dict(model="cswin_t", drop_path_rate=0.1, out_norm="layer", out_norm_eps=1e-05))
published = dict(
    method="Mask RCNN 3x", box_mAP=49.0, mask_mAP=43.6, source="microsoft/CSWin-Transformer@f111ae2 README.md"
)
