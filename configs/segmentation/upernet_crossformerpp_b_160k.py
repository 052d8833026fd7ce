"""The official detectors and segmentors group tokens as CrossFormer does, unlike ImageNet's CrossFormer++.

The result is published, a config is not: stochastic depth is that of CrossFormer-B.
"""

_base_ = "upernet_crossformer_s_160k.py"

model = dict(
    backbone=dict(
        model="crossformerpp_b", drop_path_rate=0.3, options=dict(groups=(7, 7, 7, 7), intervals=(8, 4, 2, 1))
    )
)
published = dict(method="UPerNet 160k", mIoU=50.7, source="cheerss/CrossFormer@7952010 README.md")
