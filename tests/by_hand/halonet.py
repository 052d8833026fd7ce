MODEL, BLOCK = "halonet_h0", "stages.1.0"


def multiply_adds() -> int:
    """At 224 x 224: the first block of the second stage, whose attention halves the map; blocks of 8, windows of 14."""
    tokens, out_tokens, in_dim, dim, out_dim, window = 56 * 56, 28 * 28, 32, 128, 64, 14
    attention = out_tokens * (2 * window**2 + 2 * window) * dim  # keys, values; rows, columns of relative positions
    projections = tokens * (in_dim * dim + 2 * dim**2) + out_tokens * dim**2
    return projections + attention + out_tokens * (dim * out_dim + in_dim * out_dim)
