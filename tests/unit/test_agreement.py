"""Student against teacher, layer by layer."""

from types import SimpleNamespace

import torch

from selfflow_robotics.batch import Batch
from selfflow_robotics.models.network import Network
from selfflow_robotics.models.presets import image_config
from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.objective.agreement import LEVELS, cosine_by_layer
from selfflow_robotics.objective.roles import ROLES
from selfflow_robotics.rng import torch_generator
from tests.networks import frames_slot

CONFIG = image_config(SiTConfig(width=16, depth=3, heads=2), latent_size=4, num_classes=3)


def network(seed):
    torch.manual_seed(seed)
    model = Network(CONFIG)
    for p in model.parameters():
        p.data = torch.randn(p.shape) * 0.1
    return model


def cosines(student, teacher):
    frame = frames_slot(network(0), torch.randn(4, 4, 16, generator=torch_generator("test", 1)))
    batch = Batch({"first_frame": frame}, labels=torch.zeros(4, dtype=torch.long))
    return cosine_by_layer(student, teacher, batch, ROLES["image"], torch_generator("test", 2))


def test_every_level_has_a_cosine_for_each_layer():
    found = cosines(network(0), network(0))
    assert list(found) == [f"cosine_by_layer/t={t:g}" for t in LEVELS]
    for values in found.values():
        assert len(values) == 3
        assert all(0.2 < value < 1 for value in values)  # half of the tokens are noisier
    assert found["cosine_by_layer/t=1"][0] < found["cosine_by_layer/t=0.2"][0]


def test_unlike_networks_agree_less():
    alike, unlike = cosines(network(0), network(0)), cosines(network(0), network(1))
    for key, values in alike.items():
        assert all(a > b for a, b in zip(values, unlike[key], strict=True))


def test_cosine_of_what_was_seen():
    """Identity networks: the cosine is that of the two noised views."""

    class Identity:
        config = SimpleNamespace(backbone=SimpleNamespace(depth=3))

        def encode_context(self, clean, words, labels):
            return None

        def __call__(self, slots, tau, context, layers, stop):
            return {}, dict.fromkeys(layers, slots["first_frame"].tokens)

    found = cosines(Identity(), Identity())
    assert found["cosine_by_layer/t=0.2"][0] == found["cosine_by_layer/t=0.2"][2]
    assert 0.95 < found["cosine_by_layer/t=0.2"][0] < 1
