_base_ = "semantic_fpn_cswin_t_80k.py"

model = dict(backbone=dict(model="cswin_b", drop_path_rate=0.6))
published = dict(method="SemanticFPN 80k", mIoU=49.9, source="microsoft/CSWin-Transformer@f111ae2 README.md")
