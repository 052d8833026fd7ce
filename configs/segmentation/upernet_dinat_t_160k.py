_base_ = "upernet_dinat_mini_160k.py"

model = dict(backbone=dict(model="dinat_t", drop_path_rate=0.3))
published = dict(
    method="UPerNet 160k",
    mIoU=47.8,
    source="SHI-Labs/Neighborhood-Attention-Transformer@d334f5b DiNAT.md + DiNAT paper (arXiv 2209.15001) Tables 8, VI",
)
