"""backbones/_layers.py: tables that inference keeps must follow their parameters."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from backbones._layers import ParameterTable, recompute


class Table(ParameterTable):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.computed = 0

    def compute(self, n):
        self.computed += 1
        return self.layer(torch.ones(n, 3, dtype=self.layer.weight.dtype))


@pytest.fixture
def table():
    return Table().eval()


def test_inference_computes_a_table_once_per_size(table):
    with torch.no_grad():
        first = table(4)
        assert table(4) is first and table.computed == 1
        assert table(5).shape == (5, 2) and table.computed == 2
    with torch.inference_mode():
        assert torch.equal(table(4), first)


CHANGES = {
    "in place": lambda m: m.layer.weight.add_(1.0),
    "through .data": lambda m: m.layer.bias.data.mul_(2.0).add_(1.0),
    "by a new parameter": lambda m: setattr(m.layer, "bias", nn.Parameter(torch.ones(2))),
    "by loading": lambda m: m.load_state_dict(Table().state_dict()),
    "by an optimizer": lambda m: step(m),
    "to float64": lambda m: m.double(),
}


@torch.enable_grad()
def step(model):
    model.compute(2).sum().backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@torch.no_grad()
def test_it_is_never_stale(table, change):
    before = table(4)
    change(table)
    after = table(4)
    assert after.dtype == table.layer.weight.dtype
    assert torch.equal(after, table.compute(4)) and not torch.equal(after.float(), before)


@torch.no_grad()
def test_autocast_has_a_table_of_its_own(table):
    before = table(4)
    with torch.autocast("cpu", torch.bfloat16):
        assert table(4).dtype == torch.bfloat16
    assert torch.equal(table(4), before)


def test_gradients_reach_the_parameters(table):
    with torch.no_grad():
        table(4)
    table(4).sum().backward()
    assert table.layer.weight.grad is not None
    table.train()
    with torch.no_grad():
        assert table(4) is not table(4)


@torch.no_grad()
def test_copies_and_pickles_leave_the_table_behind(table):
    before = table(4)
    for other in (copy.deepcopy(table), pickle.loads(pickle.dumps(table))):
        assert other._last is None
        assert torch.equal(other(4), before)
        other.layer.weight.add_(1.0)
        assert torch.equal(table(4), before) and not torch.equal(other(4), before)


@torch.no_grad()
def test_stand_ins_for_parameters_get_their_own(table):
    before = table(4)
    others = {name: 2 * p.detach() for name, p in table.named_parameters()}
    got = torch.func.functional_call(table, others, (4,))
    torch.testing.assert_close(got, 2 * before)
    ensemble = torch.vmap(lambda p: torch.func.functional_call(table, p, (4,)))
    stacked = {name: torch.stack([p, 3 * p]) for name, p in others.items()}
    torch.testing.assert_close(ensemble(stacked), torch.stack([got, 3 * got]))
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert table(4).shape == table(4).shape == (4, 2)
    assert torch.equal(table(4), before)


def test_recomputing_keeps_arguments_only():
    layer, x = nn.Linear(8, 8).train(), torch.randn(4, 8, requires_grad=True)
    kept = []

    def run(x):
        return layer(x.exp().sin())

    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        out = recompute(layer, run, x)
    assert all(t.data_ptr() == x.data_ptr() for t in kept if t.numel())
    got = torch.autograd.grad(out.sum(), (x, layer.weight))
    want = torch.autograd.grad(run(x).sum(), (x, layer.weight))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
