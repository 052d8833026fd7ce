MODEL, BLOCK = "ccnet_r50", "stages.4.blocks.0"


def multiply_adds() -> int:
    """At 224 x 224, on a map of 29 x 29: twice attention to row and column, a token's own pixel computed in both."""
    side, dim, qk = 29, 512, 64
    return 2 * side**2 * (2 * dim * qk + dim**2 + 2 * side * (qk + dim))
