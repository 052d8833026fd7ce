MODEL, BLOCK = "cswin_t", "stages.1.blocks.0"


def multiply_adds() -> int:
    """At 224 x 224."""
    tokens, dim, stripe = 28 * 28, 128, 28 * 2
    return tokens * (3 * dim**2 + 2 * stripe * dim + 9 * dim + dim**2 + 2 * 4 * dim**2)
