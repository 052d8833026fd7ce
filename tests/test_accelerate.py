"""backbones.accelerate: timm's own models on our operators, same state dict, same numbers."""

import copy
import pickle

import numpy as np
import pytest
import timm
import torch
from test_goldens import ALL, FOLDER, TOLERANCE, error, name_of, noise, official_state_dict, spread
from timm.layers.halo_attn import HaloAttn
from timm.models import davit as timm_davit
from torch import nn

import backbones

GOLDENS = ["halonet_h1", "halonet26t", "davit_tiny", "davit_small"]
HYBRIDS = ["halonet26t", "eca_halonext26ts", "sehalonet33ts", "haloregnetz_b", "lamhalobotnet50ts_256"]


@pytest.mark.parametrize("name", GOLDENS)
def test_goldens_hold_on_accelerated_models(name, tmp_path):
    golden, values = ALL[name], np.load(FOLDER / f"{name}.npz")
    torch.save(official_state_dict(golden), tmp_path / "official.pth")
    overlay = dict(file=str(tmp_path / "official.pth"))
    model = timm.create_model(name_of(name), pretrained=True, pretrained_cfg_overlay=overlay).eval().double()
    assert backbones.accelerate(model)
    for entry in golden["forward"]:
        size = "x".join(map(str, entry["size"]))
        x = noise(0, (entry["batch"], 3, *entry["size"])).requires_grad_()
        out = model(x)
        (out * noise(1, entry["out_shape"])).sum().backward()
        assert error(out.detach(), values[f"{size}/out"]) <= TOLERANCE
        assert error(spread(x.grad), values[f"{size}/input_grad"]) <= TOLERANCE


@pytest.mark.parametrize("name", HYBRIDS)
def test_every_halo_attention_of_timms_hybrids_is_replaced(name):
    model = timm.create_model(name).eval()
    halos = [path for path, module in model.named_modules() if type(module) is HaloAttn]
    state = model.state_dict()
    x = torch.randn(1, *model.default_cfg["input_size"])
    with torch.inference_mode():
        want = model.forward_features(x)
        replaced = backbones.accelerate(model)
        torch.testing.assert_close(model.forward_features(x), want, rtol=1e-4, atol=1e-4)
    assert replaced == dict.fromkeys(halos, HaloAttn) and halos
    assert not any(type(module) is HaloAttn for module in model.modules())
    assert all(
        value is model.state_dict()[key] or torch.equal(value, model.state_dict()[key]) for key, value in state.items()
    )
    assert model.state_dict().keys() == state.keys()


@pytest.mark.parametrize("variant", ["davit_tiny", "davit_base_fl"])
def test_davits_blocks_are_replaced(variant):
    model = timm.create_model(variant, embed_dims=(16, 32, 48, 64), num_heads=(2, 2, 3, 4), depths=(1, 1, 1, 1)).eval()
    x = torch.randn(2, 3, 70, 90)
    with torch.inference_mode():
        want = model(x)
        replaced = backbones.accelerate(model)
        torch.testing.assert_close(model(x), want)
    assert {timm_davit.SpatialBlock, timm_davit.ChannelBlock} <= set(replaced.values())


def test_it_can_be_copied_pickled_hooked_trained_and_accelerated_twice():
    model = timm.create_model("halonet26t")
    calls = []
    model.stages[3][1].self_attn.register_forward_hook(lambda *args: calls.append(1))
    backbones.accelerate(model)
    x = torch.randn(1, 3, 128, 128)
    model(x).sum().backward()
    assert calls and all(p.grad is not None for p in model.parameters())
    model.eval()
    with torch.inference_mode():
        want = model(x)
        assert torch.equal(copy.deepcopy(model)(x), want)
        model.stages[3][1].self_attn._forward_hooks.clear()
        assert torch.equal(pickle.loads(pickle.dumps(model))(x), want)
    with pytest.warns(UserWarning, match="ByobNet has nothing to accelerate"):
        assert backbones.accelerate(model) == {}


def test_any_size_runs_then():
    model = timm.create_model("halonet26t").eval()
    backbones.accelerate(model)
    with torch.inference_mode():
        assert model(torch.randn(1, 3, 150, 170)).isfinite().all()


def test_a_model_with_nothing_to_replace_is_a_message():
    with pytest.warns(UserWarning, match=r"ResNet has nothing to accelerate: no module is timm's .*HaloAttn"):
        assert backbones.accelerate(timm.create_model("test_resnet")) == {}


def test_subclasses_of_timms_classes_are_left_alone():
    class Mine(HaloAttn):
        pass

    model = nn.Sequential(Mine(16), HaloAttn(16))
    assert backbones.accelerate(model) == {"1": HaloAttn}
    assert type(model[0]) is Mine
