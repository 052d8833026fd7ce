_base_ = "_base_/semantic_fpn_80k.py"

model = dict(
    backbone=dict(model="biformer_s", drop_path_rate=0.15, norm_eval=True, out_norm="layer", options=dict(regions=8))
)
published = dict(mIoU=48.9, method="SemanticFPN 80k")
