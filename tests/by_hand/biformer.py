MODEL, BLOCK = "biformer_t", "stages.0.blocks.0"


def multiply_adds() -> int:
    """At 224 x 224."""
    tokens, dim, regions = 56 * 56, 64, 49
    chosen = 1 * tokens // regions
    per_token = 9 * dim + 3 * dim**2 + 2 * chosen * dim + 25 * dim + dim**2 + 2 * 3 * dim**2
    return tokens * per_token + regions**2 * dim  # routing
