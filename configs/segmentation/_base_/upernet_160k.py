"""UPerNet on ADE20K, 160k iterations."""

_base_ = ["ade20k.py", "upernet.py", "schedule_160k.py"]
