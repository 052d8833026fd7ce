_base_ = "upernet_nat_mini_160k.py"

model = dict(backbone=dict(model="nat_s", drop_path_rate=0.5))
published = dict(
    method="UPerNet 160k",
    mIoU=48.0,
    source="SHI-Labs/Neighborhood-Attention-Transformer@d334f5b NAT.md + DiNAT paper (arXiv 2209.15001) Tables 8, VI",
)
