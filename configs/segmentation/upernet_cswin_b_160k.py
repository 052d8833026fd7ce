_base_ = "upernet_cswin_t_160k.py"

model = dict(backbone=dict(model="cswin_b", drop_path_rate=0.6))
published = dict(
    method="UPerNet 160k",
    mIoU=51.1,
    source="microsoft/CSWin-Transformer@f111ae2 README.md + CSWin paper (arXiv 2107.00652) Tables 6, 7",
)
