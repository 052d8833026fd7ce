"""Attention and mixing operators: each a function of tensors with a plain reference and faster twins."""

from ._impl import prefer
from .routing_attention import routing_attention
from .window_attention import window_attention

__all__ = ["prefer", "routing_attention", "window_attention"]
