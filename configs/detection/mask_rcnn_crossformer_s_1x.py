_base_ = "_base_/mask_rcnn_1x.py"

model = dict(backbone=dict(model="crossformer_s", drop_path_rate=0.2))
optim_wrapper = dict(optimizer=dict(weight_decay=0.0001))
published = dict(method="Mask RCNN 1x", box_mAP=45.4, mask_mAP=41.4, source="cheerss/CrossFormer@7952010 README.md")
