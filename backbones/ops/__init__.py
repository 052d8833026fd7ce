"""Attention and mixing operators: each a function of tensors with a plain reference and faster twins."""

from ._impl import prefer
from .aggregated_attention import aggregated_attention
from .channel_attention import channel_attention
from .criss_cross_attention import criss_cross_attention
from .halo_attention import halo_attention
from .linear_attention import linear_attention
from .neighborhood_attention import neighborhood_attention
from .routing_attention import routing_attention
from .window_attention import window_attention

__all__ = [
    "aggregated_attention",
    "channel_attention",
    "criss_cross_attention",
    "halo_attention",
    "linear_attention",
    "neighborhood_attention",
    "prefer",
    "routing_attention",
    "window_attention",
]
