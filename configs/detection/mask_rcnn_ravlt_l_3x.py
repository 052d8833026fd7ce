"""Published with one image on each GPU."""

_base_ = "mask_rcnn_ravlt_s_3x.py"

model = dict(backbone=dict(model="ravlt_l", drop_path_rate=0.55))
train_dataloader = dict(batch_size=1)
auto_scale_lr = dict(base_batch_size=8)
published = dict(method="Mask RCNN 3x", box_mAP=53.6, mask_mAP=47.3, source="qhfan/RALA@a86314f README.md")
