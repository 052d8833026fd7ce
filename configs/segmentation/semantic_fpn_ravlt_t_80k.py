"""The result is published, a config is not: stochastic depth is that of the detectors."""

_base_ = "semantic_fpn_ravlt_s_80k.py"

model = dict(backbone=dict(model="ravlt_t", drop_path_rate=0.1))
published = dict(method="SemanticFPN 80k", mIoU=47.9, source="qhfan/RALA@a86314f README.md")
