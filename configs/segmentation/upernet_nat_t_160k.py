_base_ = "upernet_nat_mini_160k.py"

model = dict(backbone=dict(model="nat_t", drop_path_rate=0.3))
published = dict(
    method="UPerNet 160k",
    mIoU=47.1,
    source="SHI-Labs/Neighborhood-Attention-Transformer@d334f5b NAT.md + DiNAT paper (arXiv 2209.15001) Tables 8, VI",
)
