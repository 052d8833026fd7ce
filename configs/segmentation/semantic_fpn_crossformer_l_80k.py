_base_ = "semantic_fpn_crossformer_s_80k.py"

model = dict(
    backbone=dict(
        model="crossformer_l", drop_path_rate=0.5, options=dict(groups=(14, 14, 7, 7), intervals=(16, 8, 2, 1))
    )
)
published = dict(method="SemanticFPN 80k", mIoU=49.1, source="cheerss/CrossFormer@7952010 README.md")
