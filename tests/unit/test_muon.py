import copy

import pytest
import torch

from selfflow_robotics.training.muon import Muon, orthogonalize

SETTINGS = {"lr": 0.01, "momentum": 0.95, "weight_decay": 0.01}


def matrices(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def steps(optimizer, parameters, count=3):
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, 2e-4), (torch.float32, 5e-4)], ids=["bf16", "fp32"]
)
def test_updates_are_those_of_torch(dtype, tolerance):
    shapes = (8, 8), (8, 8), (24, 8), (8, 24), (5, 7)
    ours, theirs = matrices(*shapes), matrices(*shapes)
    steps(Muon(ours, **SETTINGS, dtype=dtype), ours)
    reference = torch.optim.Muon(theirs, **SETTINGS, nesterov=True, adjust_lr_fn="original")
    steps(reference, theirs)
    for mine, other, start in zip(ours, theirs, matrices(*shapes), strict=True):
        assert (other - start).abs().max() > 0.01
        torch.testing.assert_close(mine, other, rtol=0, atol=tolerance)


def test_singular_values_come_near_one():
    found = orthogonalize(torch.stack(matrices((6, 10), (6, 10))), torch.float32)
    values = torch.linalg.svdvals(found.detach())
    assert values.min() > 0.5
    assert values.max() < 1.5


def test_a_parameter_without_gradient_stays():
    moved, still = matrices((4, 4), (4, 4))
    before = still.detach().clone()
    optimizer = Muon([moved, still], **SETTINGS)
    moved.grad = torch.ones(4, 4)
    optimizer.step()
    assert torch.equal(still, before)
    assert list(optimizer.state) == [moved]


def test_its_state_goes_on_where_it_was():
    (parameter,) = matrices((4, 6))
    optimizer = Muon([parameter], **SETTINGS)
    steps(optimizer, [parameter])
    (other,) = matrices((4, 6))
    other.data.copy_(parameter.data)
    resumed = Muon([other], **SETTINGS)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(optimizer, [parameter], 1)
    steps(resumed, [other], 1)
    assert torch.equal(parameter, other)


def test_only_matrices_are_taken():
    with pytest.raises(ValueError, match="shape"):
        Muon([torch.nn.Parameter(torch.zeros(3))], **SETTINGS)
