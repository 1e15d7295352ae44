import copy
from typing import Any

import pytest
import torch

from selfflow_robotics.training.muon import Muon, orthogonalize

SETTINGS: dict[str, Any] = {"lr": 0.01, "momentum": 0.95, "weight_decay": 0.01}


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


@pytest.mark.parametrize(
    ("shape", "parts"), [((24, 8), 3), ((16, 8), 2), ((8, 24), 2), ((10, 5), 1)], ids=str
)
def test_a_part_of_a_matrix_moves_as_a_matrix_of_its_own(shape, parts):
    (stacked,) = matrices(shape)
    pieces = [torch.nn.Parameter(piece.clone()) for piece in stacked.detach().chunk(parts)]
    together = Muon([{"params": [stacked], "parts": parts}], **SETTINGS, dtype=torch.float32)
    apart = Muon(pieces, **SETTINGS, dtype=torch.float32)
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        stacked.grad = torch.randn(shape, generator=generator)
        for piece, grad in zip(pieces, stacked.grad.chunk(parts), strict=True):
            piece.grad = grad.clone()
        together.step()
        apart.step()
    torch.testing.assert_close(stacked, torch.cat(pieces), rtol=0, atol=1e-6)
    if parts > 1:
        (whole,) = matrices(shape)
        steps(Muon([whole], **SETTINGS, dtype=torch.float32), [whole])
        assert (whole - stacked).abs().max() > 1e-3


def test_groups_keep_their_own_rate_and_decay():
    still, moved = matrices((4, 4), (4, 4))
    optimizer = Muon(
        [{"params": [still], "lr": 0.0}, {"params": [moved], "weight_decay": 0.0}], **SETTINGS
    )
    before = [still.detach().clone(), moved.detach().clone()]
    still.grad, moved.grad = torch.eye(4), torch.zeros(4, 4)
    optimizer.step()
    assert torch.equal(still, before[0])  # its rate is 0
    assert torch.equal(moved, before[1])  # nothing pulls it and it does not decay


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


@pytest.mark.parametrize(("shape", "parts"), [((3,), 1), ((2, 3, 4), 1), ((7, 4), 3)], ids=str)
def test_only_matrices_of_equal_parts_are_taken(shape, parts):
    with pytest.raises(ValueError, match="shape"):
        Muon([torch.nn.Parameter(torch.zeros(shape))], **SETTINGS, parts=parts)
