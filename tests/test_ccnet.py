"""The official segmentation network of CCNet: its golden, and what its checkpoint gives a backbone."""

import json

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from test_goldens import FOLDER, TOLERANCE, error, noise, official_state_dict, spread

import backbones
from backbones import ccnet

NAME = "ccnet_r101_recurrence2"
GOLDEN = json.loads((FOLDER / f"{NAME}.json").read_text())
MAPS = {
    "layer1": "stages.0",
    "layer2": "stages.1",
    "layer3": "stages.2",
    "layer4": "stages.3",
    "head.conva": "stages.4.downsample",
    "head.cca": "stages.4.blocks.0",
    "head.convb": "stages.4",
}


@pytest.fixture(scope="module")
def state():
    return official_state_dict(GOLDEN)


@pytest.fixture
def network(state):
    network = ccnet.Segmenter(timm.create_model("ccnet_r101", recurrence=2), num_classes=19)
    network.load_official(state)
    return network.eval().double()


def test_outputs_gradients_and_features(network):
    (entry,) = GOLDEN["forward"]
    values = np.load(FOLDER / f"{NAME}.npz")
    maps = {}
    for feature in entry["features"]:
        module = network.backbone.get_submodule(MAPS[feature["module"]])
        module.register_forward_hook(lambda _m, _i, out, key=feature["module"]: maps.__setitem__(key, out))
    x = noise(0, (entry["batch"], 3, *entry["size"])).requires_grad_()
    out = network(x)["out"]
    (out * noise(1, entry["out_shape"])).sum().backward()

    assert sum(p.numel() for p in network.parameters()) == GOLDEN["n_params"]
    assert error(out.detach(), values["97x129/out"]) <= TOLERANCE
    assert error(spread(x.grad), values["97x129/input_grad"]) <= TOLERANCE
    assert error(x.grad.norm(), entry["input_grad_l2"]) <= TOLERANCE
    for i, feature in enumerate(entry["features"]):
        got = maps[feature["module"]]
        got = got if list(got.shape) == feature["shape"] else got.permute(0, 3, 1, 2)
        assert error(spread(got), values[f"97x129/feature{i}"]) <= TOLERANCE, feature
        assert error(got.detach().norm(), feature["l2"]) <= TOLERANCE, feature
    with torch.inference_mode(), backbones.ops.prefer("reference"):
        assert error(network(x)["out"], values["97x129/out"]) <= TOLERANCE


def test_training_losses(network):
    train = GOLDEN["train"]
    x = noise(train["input_seed"], (train["batch"], 3, *train["size"]))
    optimizer = torch.optim.SGD(network.parameters(), lr=train["lr"])
    losses = []
    for _ in train["losses"]:
        out = network(x)["out"]
        target = torch.tensor([(37 * b + 5) % 19 for b in range(len(x))])[:, None, None].expand(-1, *out.shape[2:])
        loss = F.cross_entropy(out, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert error(losses, train["losses"]) <= TOLERANCE


def test_the_official_file_gives_a_backbone(state, tmp_path):
    torch.save(state, tmp_path / "official.pth")
    overlay = dict(file=str(tmp_path / "official.pth"))
    features = timm.create_model("ccnet_r101", pretrained=True, pretrained_cfg_overlay=overlay, features_only=True)
    assert features.feature_info.channels() == [256, 512, 1024, 2048, 512]
    assert features.feature_info.reduction() == [4, 8, 8, 8, 8]
    own = features.state_dict()
    assert torch.equal(own["model.stages.4.blocks.0.v.weight"], state["head.cca.value_conv.weight"].flatten(1))


def test_training_gives_auxiliary_logits():
    network = ccnet.Segmenter(timm.create_model("test_ccnet"), num_classes=5)
    logits = network(torch.randn(2, 3, 65, 65))
    assert {key: value.shape for key, value in logits.items()} == dict.fromkeys(("out", "aux"), (2, 5, 9, 9))
    assert network.eval()(torch.randn(2, 3, 65, 65)).keys() == {"out"}


def test_recurrence_reaches_every_pixel():
    x = torch.randn(1, 9, 9, 16)
    seen = []
    for recurrence in (1, 2):
        attention = ccnet.RecurrentCrissCrossAttention(16, recurrence)
        torch.nn.init.ones_(attention.gamma)
        y = x.clone().requires_grad_()
        attention(y)[0, 4, 4].sum().backward()
        seen.append((y.grad[0].abs().sum(-1) > 0).sum().item())
    assert seen == [9 + 9 - 1, 81]
    with pytest.raises(ValueError, match="recurrence 0 must be at least 1"):
        ccnet.RecurrentCrissCrossAttention(16, 0)
