"""Parameters, multiply-adds, latency and memory of timm models, measured side by side."""

from .environment import environment
from .measure import Row, Setup, matmul_peak, profile, resolve
from .scaling import Fit, fits

__all__ = ["Fit", "Row", "Setup", "environment", "fits", "matmul_peak", "profile", "resolve"]
