MODEL, BLOCK = "ravlt_t", "stages.0.blocks.0"


def multiply_adds() -> int:
    """At 224 x 224."""
    tokens, dim, hidden = 56 * 56, 64, 224  # one head
    attention = dim + dim**2 + dim + dim**2  # weights of keys, context, normaliser, output
    return tokens * (9 * dim + 4 * dim**2 + 25 * dim + attention + dim**2 + 2 * dim * hidden + 9 * hidden)
