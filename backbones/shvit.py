"""SHViT: convolutions, and attention of a single head on part of the channels.

Paper: SHViT: Single-Head Vision Transformer with Memory Efficient Macro Design, https://arxiv.org/abs/2401.16456.
Official code: https://github.com/ysj9909/SHViT @ 6a729cc, MIT. The models are timm's (Apache-2.0); new here: official
checkpoints load. `timm.utils.reparameterize_model` folds their batch norms for deployment.
"""

from torch import nn

from ._backbone import adopt, rename_keys

TIMM_MODELS = "shvit_s1", "shvit_s2", "shvit_s3", "shvit_s4"


def remap(state_dict: dict, model: nn.Module) -> dict:
    """The official checkpoint's keys to timm's."""
    return rename_keys(
        state_dict,
        (r"^blocks1\.", "stages.0.blocks."),
        # official stages after the first begin with the parts of their downsampling
        (r"^blocks([23])\.0\.([01])\.", lambda m: f"stages.{int(m[1]) - 1}.downsample.{m[2]}."),
        (r"^blocks([23])\.1\.", lambda m: f"stages.{int(m[1]) - 1}.downsample.2."),
        (r"^blocks([23])\.2\.([01])\.", lambda m: f"stages.{int(m[1]) - 1}.downsample.{int(m[2]) + 3}."),
        (r"^blocks([23])\.(\d+)\.", lambda m: f"stages.{int(m[1]) - 1}.blocks.{int(m[2]) - 3}."),
    )


adopt(TIMM_MODELS)
