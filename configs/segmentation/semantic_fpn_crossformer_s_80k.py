_base_ = "_base_/semantic_fpn_80k.py"

model = dict(backbone=dict(model="crossformer_s", drop_path_rate=0.2))
published = dict(method="SemanticFPN 80k", mIoU=46.4, source="cheerss/CrossFormer@7952010 README.md")
