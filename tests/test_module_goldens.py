"""The goldens of single modules: an operator between its projections, in float64."""

import numpy as np
import pytest
import torch
from test_goldens import ALL, FOLDER, TOLERANCE, error, noise, official_state_dict, spread
from torch import nn

import backbones
from backbones import ccnet, nat


def neighborhood(kernel_size, dilation=1):
    return nat.NeighborhoodAttention(32, 2, kernel_size, dilation)


MODULES = {
    "neighborhood_attention_k3_d1": lambda: neighborhood(3),
    "neighborhood_attention_k7_d1": lambda: neighborhood(7),
    "neighborhood_attention_k7_d3": lambda: neighborhood(7, 3),
    "neighborhood_attention_k13_d1": lambda: neighborhood(13),
    "criss_cross_attention_64": lambda: ccnet.RecurrentCrissCrossAttention(64, recurrence=1),
}
CASES = [(name, run) for name in MODULES for run in ALL[name]["forward"]]


def build(name) -> nn.Module:
    module, state = MODULES[name](), official_state_dict(ALL[name])
    if "criss_cross" in name:
        state = ccnet.remap({f"head.cca.{key}": value for key, value in state.items()}, module)
        state = {key.removeprefix("stages.4.blocks.0."): value for key, value in state.items()}
    module.load_state_dict({key.removeprefix("attn."): value for key, value in state.items()})
    return module.double()


def test_no_golden_of_a_module_is_left_out():
    assert set(MODULES) == {name for name in ALL if "_attention_" in name}


@pytest.mark.parametrize("impl", [None, "reference"])
@pytest.mark.parametrize("name, run", CASES, ids=lambda case: case if isinstance(case, str) else str(case["size"]))
def test_outputs_and_gradients(name, run, impl):
    module, values = build(name), np.load(FOLDER / f"{name}.npz")
    size = "x".join(map(str, run["size"]))
    x = noise(0, (run["batch"], run["out_shape"][1], *run["size"])).requires_grad_()
    if impl:
        with backbones.ops.prefer(impl):
            out = module(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    else:
        out = module(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    (out * noise(1, run["out_shape"])).sum().backward()
    assert sum(p.numel() for p in module.parameters()) == ALL[name]["n_params"]
    assert error(out.detach(), values[f"{size}/out"]) <= TOLERANCE
    assert error(spread(x.grad), values[f"{size}/input_grad"]) <= TOLERANCE


@pytest.mark.parametrize("name", [name for name in MODULES if ALL[name]["train"]])
def test_training_losses(name):
    module, train = build(name), ALL[name]["train"]
    x = noise(train["input_seed"], (train["batch"], 64 if "criss" in name else 32, *train["size"]))
    optimizer = torch.optim.SGD(module.parameters(), lr=train["lr"])
    losses = []
    for _ in train["losses"]:
        out = module(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        target = torch.tensor([(37 * b + 5) % out.shape[1] for b in range(len(x))])[:, None, None]
        loss = nn.functional.cross_entropy(out, target.expand(-1, *out.shape[2:]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert error(losses, train["losses"]) <= TOLERANCE
