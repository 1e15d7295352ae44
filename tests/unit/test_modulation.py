"""adaLN on rows of distinct timesteps, and what its own backward passes keep and return."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from selfflow_robotics.models import modulation
from selfflow_robotics.models.layers import Block
from selfflow_robotics.models.modulation import Modulation, gated_add, norm_modulate, spread
from selfflow_robotics.rng import torch_generator

GROUPS, TOKENS, WIDTH = 3, 10, 8
ROWS = [1, 2, 3, modulation.FEW_ROWS + 1]


def draw(*shape, seed=0):
    generator = torch_generator("test", seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def rows_and_index(num_rows):
    index = torch.randint(0, num_rows, (GROUPS, TOKENS), generator=torch_generator("test", 1))
    return draw(GROUPS, num_rows, WIDTH, seed=2), draw(GROUPS, num_rows, WIDTH, seed=3), index


@pytest.mark.parametrize("num_rows", ROWS)
def test_every_token_gets_its_row(num_rows):
    rows, _, index = rows_and_index(num_rows)
    tokens = spread(rows, index).expand(-1, TOKENS, -1)
    for g in range(GROUPS):
        assert torch.equal(tokens[g], rows[g, index[g]])


@pytest.mark.parametrize("num_rows", ROWS)
def test_backward_passes_are_exact(num_rows):
    x, branch = draw(GROUPS, TOKENS, WIDTH), draw(GROUPS, TOKENS, WIDTH, seed=4)
    shift, scale, index = rows_and_index(num_rows)
    torch.autograd.gradcheck(norm_modulate, (x, shift, scale, index))
    torch.autograd.gradcheck(gated_add, (x, scale, branch, index))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_block_trains_as_with_autograd_and_keeps_less(monkeypatch, precision):
    torch.manual_seed(0)
    block = Block(64, heads=2, mlp_ratio=4.0)
    mod = Modulation(torch.randn(2, 2, 64), torch.randint(0, 2, (2, 48)))
    x = torch.randn(2, 48, 64, requires_grad=True)

    def step():
        kept = {}

        def keep(tensor):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        block.zero_grad(set_to_none=True)
        autocast = torch.autocast("cpu", torch.bfloat16, precision is torch.bfloat16)
        with autocast, saved_tensors_hooks(keep, lambda tensor: tensor):
            out, _ = block(x, mod)
        out.square().sum().backward()
        weights = {p.untyped_storage().data_ptr() for p in block.parameters()}
        activations = sum(size for at, size in kept.items() if at not in weights)
        return out.detach(), [p.grad for p in block.parameters()], activations

    out, gradients, kept = step()
    monkeypatch.setattr(modulation, "_autograd_decides", lambda: True)
    plain_out, plain_gradients, plain_kept = step()
    assert torch.equal(out, plain_out)
    tolerance = 1e-5 if precision is torch.float32 else 0.02
    for gradient, plain in zip(gradients, plain_gradients, strict=True):
        assert (gradient - plain).abs().max() <= tolerance * plain.abs().max()
    # Neither the normed tokens, nor 1 + scale, nor the gates, nor their product's inputs twice.
    assert plain_kept - kept >= 5.5 * x.nbytes * (1 if precision is torch.float32 else 0.5)
