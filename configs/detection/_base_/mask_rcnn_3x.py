"""Mask R-CNN on COCO, 36 epochs, multi-scale."""

_base_ = ["coco_multiscale.py", "mask_rcnn.py", "schedule_3x.py"]
