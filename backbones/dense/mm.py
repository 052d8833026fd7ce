"""What is needed and may be missing."""

import importlib.util


def require(*packages: str) -> None:
    """Raises ValueError unless mmengine and `packages` (mmdet, mmseg) are installed."""
    missing = [name for name in ("mmengine", "mmcv", *packages) if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"detection and segmentation need {', '.join(missing)}: `bash tools/install_mm.sh` installs them"
        )
