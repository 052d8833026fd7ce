"""Times of ops and of whole models against what PyTorch offers, reported only where the results agree."""

from .measure import STEPS, Row, implementations, models, operators
from .targets import Verdict, judge

__all__ = ["STEPS", "Row", "Verdict", "implementations", "judge", "models", "operators"]
