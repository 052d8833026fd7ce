"""UPerNet on ADE20K, crops of 640 x 640, 160k iterations."""

_base_ = ["ade20k_640.py", "upernet.py", "schedule_160k.py"]

model = dict(data_preprocessor=dict(size=(640, 640)))
