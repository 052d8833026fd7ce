"""Mask R-CNN on COCO, 12 epochs."""

_base_ = ["coco.py", "mask_rcnn.py", "schedule_1x.py"]
