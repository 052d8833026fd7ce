_base_ = "semantic_fpn_ravlt_s_80k.py"

model = dict(backbone=dict(model="ravlt_l", drop_path_rate=0.55))
published = dict(method="SemanticFPN 80k", mIoU=52.6, source="qhfan/RALA@a86314f README.md")
