MODEL, BLOCK = "nat_mini", "stages.0.blocks.0"


def multiply_adds() -> int:
    """At 224 x 224."""
    tokens, dim, window, hidden = 56 * 56, 64, 7 * 7, 3 * 64
    return tokens * (3 * dim**2 + 2 * window * dim + dim**2 + 2 * dim * hidden)
