"""The parts of a batch, and losses as means over the tokens of all processes."""

import pytest
import torch

from selfflow_robotics.errors import UserError
from selfflow_robotics.rng import batch_rows, draw, on_host, torch_generator
from selfflow_robotics.training.distributed import ALONE, Ranks, start_ranks
from selfflow_robotics.training.step import StepLoss, over_all_tokens


def test_a_process_alone_changes_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert start_ranks(torch.device("cpu")) == (ALONE, torch.device("cpu"))
    assert ALONE.share([1, 2, 3]) == [1, 2, 3]


def test_shares_are_disjoint_and_complete():
    both = [Ranks(rank, 2) for rank in range(2)]
    assert [item for ranks in both for item in ranks.share(range(6))] == list(range(6))


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match="not divisible by 2"):
        Ranks(0, 2).share(range(5))


@pytest.mark.parametrize("kind", [torch.rand, torch.randn])
def test_a_sample_has_the_same_noise_in_any_number_of_processes(kind):
    alone = torch_generator("x", 1)
    whole = [draw(kind, (6, 5), alone), draw(kind, (3, 6), alone, dim=1)]
    parts = []
    for number in range(3):
        generator = on_host(torch_generator("x", 1, part=(number, 3)))
        assert batch_rows(2, generator) == 6
        parts.append([draw(kind, (2, 5), generator), draw(kind, (3, 2), generator, dim=1)])
    for at, expected in enumerate(whole):
        assert torch.equal(torch.cat([part[at] for part in parts], dim=at), expected)


class Three(Ranks):
    """The second of three processes, of which the others have 1 and 8 tokens."""

    def sum(self, value):
        return value + torch.tensor([1.0 + 8.0, 0.0])


def test_every_token_weighs_the_same_however_many_a_process_has():
    mean, empty = torch.tensor(2.0), torch.tensor(0.0)
    means = [(mean, torch.tensor(3)), (empty, torch.tensor(0))]
    out = over_all_tokens(StepLoss(mean + empty, 3, dict, means), Three(1, 3))
    assert out.loss.item() == pytest.approx(3 * 2.0 * 3 / (1 + 3 + 8))
    assert over_all_tokens(StepLoss(mean, 3, dict, means), ALONE).loss is mean
