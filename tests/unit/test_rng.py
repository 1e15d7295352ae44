"""Random streams: a function of their names, and never shared between two purposes."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

from selfflow_robotics.rng import check_seed, numpy_generator, torch_generator, torch_seed

ROOT = Path(__file__).parents[2]
LIBRARY = [
    path
    for folder in ("selfflow_robotics", "pretrain", "finetune", "eval")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path.name != "rng.py"
]


def purposes():
    """(purpose, place) of every generator and seed that the library makes."""
    for path in LIBRARY:
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node, "func", None) and ast.unparse(node.func)
            if name in ("numpy_generator", "torch_generator", "torch_seed"):
                place = f"{path.name}:{node.lineno}"
                first = node.args[0]
                assert isinstance(first, ast.Constant), f"{place} does not name its purpose"
                yield first.value, place


def test_every_draw_of_the_library_has_a_purpose_of_its_own():
    seen = {}
    for purpose, place in purposes():
        assert isinstance(purpose, str), place
        seen.setdefault(purpose, []).append(place)
    assert len(seen) > 15
    assert {purpose: places for purpose, places in seen.items() if len(places) > 1} == {}


def test_names_that_look_alike_are_different_streams():
    names = [
        (0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0), (2**32,), (2**32, 0), (0, 2**32),
        (2**63 - 1,), (2**62,), (2**32 + 1,), (1, 1), (11,), (1, 11), (11, 1), ("1",), ("1", 1),
    ]  # fmt: skip
    draws = {
        (purpose, *numpy_generator(purpose, *name).integers(2**63, size=2)): name
        for name in names
        for purpose in ("a", "b")
    }
    assert len({draw[1:] for draw in draws}) == 2 * len(names)
    seeds = {torch_seed(purpose, *name) % 2**32 for name in names for purpose in ("a", "b")}
    assert len(seeds) == 2 * len(names)  # also of the bits that torch uses on a CPU


def test_the_same_names_draw_the_same_numbers_whatever_kind_of_integer_they_are():
    one, other = (torch_generator("a", *names) for names in [(3, 4), (np.int64(3), np.uint8(4))])
    assert torch.equal(torch.rand(3, generator=one), torch.rand(3, generator=other))
    assert numpy_generator("a", 3).random() == numpy_generator("a", np.int32(3)).random()


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_out_of_range_are_refused(seed):
    with pytest.raises(ValueError, match="seed must be"):
        check_seed(seed)
    check_seed(2**63 - 1)
