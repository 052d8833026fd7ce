_base_ = "semantic_fpn_cswin_t_80k.py"

model = dict(backbone=dict(model="cswin_s", drop_path_rate=0.4))
published = dict(method="SemanticFPN 80k", mIoU=49.2, source="microsoft/CSWin-Transformer@f111ae2 README.md")
