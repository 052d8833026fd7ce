"""Detectors and segmentors: trained, evaluated and applied by mmengine's Runner, after configs and data are checked.

The command lines in tools/ call these modules; they need mmengine, and mmdet or mmseg (tools/install_mm.sh).
"""
