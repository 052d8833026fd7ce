_base_ = "upernet_dinats_t_160k.py"

model = dict(backbone=dict(model="dinats_b"))
published = dict(
    method="UPerNet 160k",
    mIoU=49.4,
    source="SHI-Labs/Neighborhood-Attention-Transformer@d334f5b DiNAT.md + DiNAT paper (arXiv 2209.15001) Tables 8, VI",
)
