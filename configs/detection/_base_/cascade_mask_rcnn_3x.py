"""Cascade Mask R-CNN on COCO, 36 epochs, multi-scale."""

_base_ = ["coco_multiscale.py", "cascade_mask_rcnn.py", "schedule_3x.py"]
