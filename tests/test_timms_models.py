"""Models that are timm's and in our catalogue: what the zoo promises of every model, SHViT's folding."""

import copy

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.utils import reparameterize_model
from torch import nn

import backbones
from backbones import shvit

STRIDES = {"shvit_s1": [16, 32, 64], "davit_tiny": [4, 8, 16, 32]}


@pytest.fixture(scope="module", params=STRIDES)
def features(request):
    return timm.create_model(request.param, features_only=True).eval(), STRIDES[request.param]


@settings(max_examples=6, deadline=None, derandomize=True)
@given(height=st.integers(32, 150), width=st.integers(32, 150))
def test_any_size_gives_maps_of_the_declared_strides(features, height, width):
    model, strides = features
    assert model.feature_info.reduction() == strides
    with torch.inference_mode():
        maps = model(torch.randn(1, 3, height, width))
    for m, chs, red in zip(maps, model.feature_info.channels(), strides, strict=True):
        assert m.shape[1] == chs and m.isfinite().all()
        for got, size in zip(m.shape[2:], (height, width), strict=True):
            assert size // red <= got <= -(-size // red)


@pytest.mark.parametrize("name", STRIDES)
def test_intermediates_are_the_features(name):
    model = timm.create_model(name).eval()
    x = torch.randn(1, 3, 96, 128)
    with torch.inference_mode():
        final, maps = model.forward_intermediates(x)
        torch.testing.assert_close(final, model.forward_features(x))
        (last,) = model.forward_intermediates(x, indices=1, intermediates_only=True)
    assert torch.equal(last, maps[-1])
    assert [m.shape[1] for m in maps] == [info["num_chs"] for info in model.feature_info]


def test_a_fork_of_the_entrypoint_is_still_timms():
    for name in shvit.TIMM_MODELS:
        entrypoint = timm.model_entrypoint(name)
        assert entrypoint.__module__ == "timm.models.shvit" and entrypoint.__name__ == name
    assert timm.create_model("shvit_s1", num_classes=7).num_classes == 7
    assert "shvit_s1.in1k" in timm.list_pretrained("shvit*")


def test_batch_norms_of_shvit_fold_as_timm_folds():
    model = timm.create_model("shvit_s1").eval()
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d)):  # the published ones start from zero, too
            for value in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(value)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    model = model.double()
    x = torch.randn(2, 3, 96, 96, dtype=torch.float64)
    with torch.inference_mode():
        want = model(x)
        folded = reparameterize_model(copy.deepcopy(model))
        torch.testing.assert_close(folded(x), want)
    assert not any(isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d)) for module in folded.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_official_keys_of_shvit_are_told_from_timms():
    own = timm.create_model("shvit_s1").state_dict()
    assert shvit.remap(own, None).keys() == own.keys()


@pytest.mark.parametrize("name", ["davit_tiny", "shvit_s1", "halonet_h1"])
def test_the_catalogue_knows_them(name):
    assert name in backbones.list_models()
    assert backbones.info(name).params == sum(p.numel() for p in timm.create_model(name).parameters())
