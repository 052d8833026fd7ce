MODEL, BLOCK = "davit_large_window12_384", "stages.0.blocks.0"


def multiply_adds() -> int:
    """At 224 x 224, whose map of 56 x 56 is padded to windows of 12: a block of windows, one of channels."""
    tokens, padded, dim, head_dim, window = 56 * 56, 60 * 60, 192, 32, 12 * 12
    encodings, mlp = 2 * 9 * dim, 8 * dim**2
    windows = padded * (3 * dim**2 + 2 * window * dim) + tokens * dim**2
    channels = tokens * (3 * dim**2 + 2 * head_dim * dim + dim**2)
    return windows + channels + 2 * tokens * (encodings + mlp)
