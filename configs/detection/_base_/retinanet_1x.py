"""RetinaNet on COCO, 12 epochs."""

_base_ = ["coco_boxes.py", "retinanet.py", "schedule_1x.py"]

optim_wrapper = dict(optimizer=dict(weight_decay=1e-4))
