MODEL, BLOCK = "transnext_micro", "stages.0.blocks.0"


def multiply_adds() -> int:
    """At 224 x 224."""
    tokens, dim, heads, pooled, hidden = 56 * 56, 48, 2, 49, 256
    attention = 9 * dim + 2 * (9 + pooled) * dim  # learned tokens; neighbours and pooled map
    glu = 2 * dim * hidden + 9 * hidden + hidden * dim
    distances = (2 * 56 - 8) ** 2
    return tokens * (3 * dim**2 + dim**2 + attention + dim**2 + glu) + pooled * 2 * dim**2 + distances * 512 * heads
