"""Student against teacher, layer by layer."""

import torch
from selfflow_robotics.models.image_sit import ImageSiT, ImageSiTConfig

from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.objective.agreement import LEVELS, cosine_by_layer
from selfflow_robotics.rng import torch_generator


def network(seed):
    torch.manual_seed(seed)
    config = ImageSiTConfig(SiTConfig(width=16, depth=3, heads=2), latent_size=4, num_classes=3)
    model = ImageSiT(config)
    for p in model.parameters():
        p.data = torch.randn(p.shape) * 0.1
    labels = torch.zeros(4, dtype=torch.long)
    return lambda x_t, tau, layers: model(x_t["latents"], tau, labels, layers, True)


def cosines(student, teacher):
    x = {"latents": torch.randn(4, 4, 16, generator=torch_generator(1))}
    return cosine_by_layer(student, teacher, x, 3, torch_generator(2))


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

    def identity(x_t, tau, layers):
        return {}, dict.fromkeys(layers, x_t["latents"])

    found = cosines(identity, identity)
    assert found["cosine_by_layer/t=0.2"][0] == found["cosine_by_layer/t=0.2"][2]
    assert 0.95 < found["cosine_by_layer/t=0.2"][0] < 1
