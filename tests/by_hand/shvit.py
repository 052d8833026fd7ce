MODEL, BLOCK = "shvit_s1", "stages.1.blocks.0"


def multiply_adds() -> int:
    """At 224 x 224, stride 32: 7 x 7 tokens, of whose 224 channels 48 attend."""
    tokens, dim, part, qk = 7 * 7, 224, 48, 16
    attention = part * (2 * qk + part) + tokens * (qk + part)
    return tokens * (9 * dim + attention + dim**2 + 4 * dim**2)
