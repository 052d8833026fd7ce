"""COCO without masks, multi-scale."""

_base_ = "coco_multiscale.py"

train_pipeline = [dict(step) for step in _base_.train_pipeline]
test_pipeline = [dict(step) for step in _base_.test_pipeline]
train_pipeline[1]["with_mask"] = test_pipeline[2]["with_mask"] = False
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(metric="bbox")
test_evaluator = val_evaluator
