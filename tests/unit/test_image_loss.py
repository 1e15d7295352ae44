"""The loss on latents of labelled pictures."""

import pytest
import torch
from selfflow_robotics.models.image_sit import ImageSiT, ImageSiTConfig
from selfflow_robotics.objective.image_loss import image_loss

from selfflow_robotics.models.sit import SiTConfig
from selfflow_robotics.objective.self_flow import ObjectiveConfig

CONFIG = ImageSiTConfig(SiTConfig(32, 4, 2), latent_size=8, channels=4, patch=2, num_classes=5)


class Watched:
    """A network that remembers the labels it was shown."""

    def __init__(self, model):
        self.model, self.projector, self.labels = model, model.projector, []

    def __call__(self, tokens, timesteps, labels, *args, **kw):
        self.labels.append(labels)
        return self.model(tokens, timesteps, labels, *args, **kw)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ImageSiT(CONFIG)


def loss_of(model, dropout, **settings):
    tokens = torch.randn(64, 16, 16, generator=torch.Generator().manual_seed(1))
    student, teacher = Watched(model), Watched(model)
    terms = image_loss(
        student, teacher, tokens, torch.arange(64) % 5, CONFIG.null_label, dropout,
        ObjectiveConfig(**settings), torch.Generator().manual_seed(0),
    )  # fmt: skip
    return terms, student, teacher


def test_the_teacher_does_without_the_same_labels_as_the_student(model):
    _, student, teacher = loss_of(model, 0.5)
    assert torch.equal(student.labels[0], teacher.labels[0])
    hidden = student.labels[0] == CONFIG.null_label
    assert 0.25 < hidden.float().mean().item() < 0.75
    assert torch.equal(student.labels[0][~hidden], (torch.arange(64) % 5)[~hidden])


def test_no_label_is_hidden_without_dropout(model):
    _, student, _ = loss_of(model, 0.0)
    assert torch.equal(student.labels[0], torch.arange(64) % 5)


def test_loss_trains_network_labels_and_head(model):
    model.zero_grad()
    terms, *_ = loss_of(model, 0.1)
    terms.loss.backward()
    for weight in (model.final_layer.linear.weight, model.projector.linear1.weight):
        assert weight.grad.abs().sum() > 0


def test_vanilla_asks_no_teacher(model):
    terms, _, teacher = loss_of(model, 0.1, gamma=0.0, mask_ratio=0.0)
    assert teacher.labels == []
    assert torch.equal(terms.loss, terms.flow_loss)
