_base_ = "semantic_fpn_biformer_s_80k.py"

model = dict(backbone=dict(model="biformer_b", drop_path_rate=0.3))
published = dict(
    method="SemanticFPN 80k", mIoU=49.9, source="rayleizhu/BiFormer@1697bbb semantic_segmentation/README.md"
)
