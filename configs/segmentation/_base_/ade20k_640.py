"""ADE20K, crops of 640 x 640."""

_base_ = "ade20k.py"

train_pipeline = [dict(step) for step in _base_.train_pipeline]
train_pipeline[2]["scale"] = (2560, 640)
train_pipeline[3]["crop_size"] = (640, 640)
test_pipeline = [dict(step) for step in _base_.test_pipeline]
test_pipeline[1]["scale"] = (2560, 640)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
