MODEL, BLOCK = "crossformer_t", "stages.0.blocks.0"


def multiply_adds() -> int:
    """At 224 x 224."""
    tokens, dim, heads, group = 56 * 56, 64, 2, 7
    width = dim // 16
    offsets = (2 * group - 1) ** 2 * (2 * width + 2 * width**2 + width * heads)
    return tokens * (3 * dim**2 + 2 * group**2 * dim + dim**2 + 2 * 4 * dim**2) + offsets
