_base_ = "semantic_fpn_crossformer_s_80k.py"

model = dict(backbone=dict(model="crossformer_b", drop_path_rate=0.3))
published = dict(method="SemanticFPN 80k", mIoU=48.0, source="cheerss/CrossFormer@7952010 README.md")
