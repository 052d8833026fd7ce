"""The paper gives the settings, no code; stochastic depth is what it gives for UPerNet, norms of the maps are those of
the official UPerNet.
"""

_base_ = "_base_/semantic_fpn_80k.py"

model = dict(backbone=dict(model="cswin_t", drop_path_rate=0.2, out_norm="layer", out_norm_eps=1e-05))
published = dict(method="SemanticFPN 80k", mIoU=48.2, source="microsoft/CSWin-Transformer@f111ae2 README.md")
