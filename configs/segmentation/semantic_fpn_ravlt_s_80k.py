_base_ = "_base_/semantic_fpn_80k.py"

model = dict(backbone=dict(model="ravlt_s", drop_path_rate=0.15, norm_eval=True, out_norm="layer"))
published = dict(method="SemanticFPN 80k", mIoU=49.5, source="qhfan/RALA@a86314f README.md")
