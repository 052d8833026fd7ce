MODEL, BLOCK = "crossformerpp_s", "stages.2.blocks.2"


def multiply_adds() -> int:
    """A block that ends in a cooling layer, at 224 x 224."""
    tokens, dim, heads, group = 14 * 14, 256, 8, 14
    width = dim // 16
    offsets = (2 * group - 1) ** 2 * (2 * width + 2 * width**2 + width * heads)
    return tokens * (3 * dim**2 + 2 * group**2 * dim + dim**2 + 2 * 4 * dim**2 + 9 * dim) + offsets
