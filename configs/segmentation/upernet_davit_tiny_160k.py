_base_ = "_base_/upernet_160k.py"

model = dict(
    backbone=dict(model="davit_tiny", drop_path_rate=0.3, out_norm="layer", out_norm_eps=1e-05),
    decode_head=dict(norm_cfg=dict(type="BN")),
    auxiliary_head=dict(norm_cfg=dict(type="BN")),
)
published = dict(method="UPerNet 160k", mIoU=46.3, source="dingmyu/davit@fc79470 README.md")
