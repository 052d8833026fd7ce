_base_ = "semantic_fpn_ravlt_s_80k.py"

model = dict(backbone=dict(model="ravlt_b", drop_path_rate=0.4))
published = dict(method="SemanticFPN 80k", mIoU=51.9, source="qhfan/RALA@a86314f README.md")
