"""The two sides of benchmarks/speed.py, library and baseline, on the same weights."""

import argparse
import copy
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.plain import PlainNetwork, plain_ema, plain_loss, plain_sample
from selfflow_robotics.batch import Batch, Slot, frame_places
from selfflow_robotics.inference.sample import sample
from selfflow_robotics.modalities.base import FRAMES
from selfflow_robotics.models.network import Network, NetworkConfig
from selfflow_robotics.objective.loss import ConditioningConfig, loss
from selfflow_robotics.objective.roles import ROLES
from selfflow_robotics.objective.self_flow import ObjectiveConfig
from selfflow_robotics.rng import torch_generator
from selfflow_robotics.timesteps import Timesteps
from selfflow_robotics.training.compile import compile_blocks
from selfflow_robotics.training.device import autocast, has_bf16
from selfflow_robotics.training.optimizer import OptimizerConfig, build_optimizers
from selfflow_robotics.training.teacher import make_teacher, update_teacher

DECAY, GUIDANCE = 0.9999, 2.0
CONDITIONING = ConditioningConfig(frame_draws=1, text_dropout=0.1)
SLOT = "first_frame"  # the only slot of an image network
GROUPS = ("training step", "teacher", "sampler", "guided sampler", "optimiser and average")
# Largest accepted differences, relative to the largest number compared.
TOLERANCE = {"fp32": 1e-4, "bf16": 0.05}


@dataclass
class Variant:
    """One measurement; `run` executes it once for a batch of `batch` images."""

    group: str
    name: str  # begins with "plain" or "ours"
    run: Callable[[int], Any]
    batch: int
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int | None = None  # GPU memory beyond weights and optimiser states
    failed: str | None = None

    @property
    def per_picture(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds) / self.batch


class Setup:
    """The networks of both sides, with shared parameters."""

    def __init__(self, config: NetworkConfig, layers: tuple[int, int], device: torch.device):
        self.config, self.device = config, device
        grid = config.adapters[FRAMES].grid
        assert grid is not None
        self.places = frame_places(grid, 1).to(device)
        self.objective = ObjectiveConfig(student_layer=layers[0], teacher_layer=layers[1])
        torch.manual_seed(0)
        self.model = Network(config).to(device)
        for name, p in self.model.named_parameters():  # adaLN-Zero would hide every difference
            if "adaLN" in name or "final" in name:
                nn.init.normal_(p, std=0.02)
        self.teacher = make_teacher(self.model)
        self.plain, self.plain_teacher = PlainNetwork(self.model), PlainNetwork(self.teacher)

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """Tokens [B, N, C] and labels [B]."""
        labels = torch.arange(size, device=self.device) % self.config.null_label
        return self.draw(size, 1), labels

    def draw(self, size: int, seed: int) -> Tensor:
        """Standard normal tokens [B, N, C]."""
        generator = torch_generator("benchmark", seed, device=self.device)
        shape = (size, len(self.places), self.config.adapters[FRAMES].channels)
        return torch.randn(shape, generator=generator, device=self.device)

    def slots(self, tokens: Tensor) -> dict[str, Slot]:
        return {SLOT: Slot(tokens, self.places)}

    def loss(self, model: Network, teacher: Network, size: int, precision: str) -> Tensor:
        x, labels = self.batch(size)
        batch = Batch(self.slots(x), labels=labels)
        generator = torch_generator("benchmark", 2, device=self.device)
        role, objective = ROLES["image"], self.objective
        with autocast(self.device, precision):
            terms = loss(model, teacher, batch, role, objective, CONDITIONING, generator)
        return terms.loss

    def plain_loss(
        self, model: PlainNetwork, teacher: PlainNetwork, size: int, precision: str
    ) -> Tensor:
        x, labels = self.batch(size)
        generator, dropout = (
            torch_generator("benchmark", 2, device=self.device),
            CONDITIONING.text_dropout,
        )
        with autocast(self.device, precision):
            return plain_loss(model, teacher, x, labels, dropout, self.objective, generator)

    def sample(self, model: Network, size: int, steps: int, guidance: float) -> Tensor:
        _, labels = self.batch(size)
        return sample(
            model, self.slots(self.draw(size, 3)), num_steps=steps, labels=labels,
            guidance_scale=guidance, guidance_interval=(0.0, 0.7),
        )[SLOT]  # fmt: skip

    def plain_sample(
        self, size: int, steps: int, guidance: float, precision: str = "fp32"
    ) -> Tensor:
        _, labels = self.batch(size)
        with autocast(self.device, precision):
            return plain_sample(self.plain, labels, self.draw(size, 3), steps, guidance)

    def teach(self, size: int, precision: str = "fp32") -> Tensor:
        """The teacher's features, as computed in the loss."""
        x, labels = self.batch(size)
        layer = self.objective.teacher_layer
        with torch.no_grad(), autocast(self.device, precision):
            at = Timesteps.constant(0.3, x)
            context = self.teacher.encode_context({}, labels=labels)
            return self.teacher(self.slots(x), at, context, (layer,), stop=True)[1][layer]

    def plain_teach(self, size: int, precision: str = "fp32") -> Tensor:
        x, labels = self.batch(size)
        with torch.no_grad(), autocast(self.device, precision):
            at = torch.full((size,), 0.3, device=self.device)
            return self.plain_teacher(x, at, labels, self.objective.teacher_layer)[1]


def check_equal(setup: Setup, size: int, steps: int) -> dict[str, float]:
    """Relative differences between both sides, each below its tolerance or an AssertionError."""
    found = {}

    def check(name: str, ours: Tensor, plain: Tensor, precision: str = "fp32") -> None:
        scale = plain.abs().max().item()
        found[name] = (ours.float() - plain.float()).abs().max().item() / scale
        assert found[name] <= TOLERANCE[precision], (
            f"{name} differs by {found[name]:.2g} of {scale}"
        )

    losses = []
    gradients = []
    sides: list[tuple[Callable[..., Tensor], nn.Module, nn.Module]] = [
        (setup.loss, setup.model, setup.teacher),
        (setup.plain_loss, setup.plain, setup.plain_teacher),
    ]
    for loss_of, model, teacher in sides:
        loss = loss_of(model, teacher, size, "fp32")
        loss.backward()
        losses.append(loss.detach())
        gradients.append({p: p.grad for p in model.parameters() if p.grad is not None})
        model.zero_grad(set_to_none=True)
    check("loss", *losses)
    ours, plain = gradients
    assert ours.keys() == plain.keys()
    largest = max(gradient.abs().max().item() for gradient in plain.values())
    worst = max((ours[p] - plain[p]).abs().max().item() for p in plain)
    found["gradients"] = worst / largest
    assert found["gradients"] <= TOLERANCE["fp32"], f"gradients differ by {worst:.2g}"
    check("teacher's features", setup.teach(size), setup.plain_teach(size))
    half = copy.deepcopy(setup.model).bfloat16()
    for guidance in (1.0, GUIDANCE):
        reference = setup.plain_sample(size, steps, guidance)
        ours = setup.sample(setup.model, size, steps, guidance)
        check(f"samples, guidance {guidance:g}", ours, reference)
        if guidance == 1 and has_bf16(setup.device):
            coarse = setup.sample(half, size, steps, guidance)
            check("samples, bf16 weights", coarse, reference, "bf16")
    return found


def training_step(
    loss_of: Callable[[int], Tensor], parameters: list[nn.Parameter], update: Callable[[], None]
) -> Callable[[int], None]:
    def run(size: int) -> None:
        loss_of(size).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        update()

    return run


def shared_copy(model: nn.Module) -> Any:
    """A copy that shares the parameters and can be compiled without affecting the original."""
    return copy.deepcopy(model, {id(p): p for p in model.parameters()})


def variants(setup: Setup, options: argparse.Namespace) -> list[Variant]:
    """All variants, in the order of the table."""
    settings = OptimizerConfig(lr=1e-4, betas=(0.9, 0.999), weight_decay=0.0, muon=False)
    parameters = list(setup.model.parameters())
    (fast,) = build_optimizers(setup.model, settings)
    slow = torch.optim.AdamW(parameters, lr=1e-4, betas=(0.9, 0.999), weight_decay=0.0)

    def update() -> None:
        fast.step()
        fast.zero_grad(set_to_none=True)
        update_teacher(setup.teacher, setup.model, DECAY)

    def plain_update() -> None:
        slow.step()
        slow.zero_grad(set_to_none=True)
        plain_ema(setup.plain_teacher, setup.plain, DECAY)

    def step(ours: bool, precision: str, compiled: bool) -> Callable[[int], None]:
        pair = [setup.model, setup.teacher] if ours else [setup.plain, setup.plain_teacher]
        if compiled:
            pair = [shared_copy(model) for model in pair]
            for model in pair:
                compile_blocks(model)
        loss: Callable[..., Tensor] = setup.loss if ours else setup.plain_loss
        return training_step(
            lambda size: loss(*pair, size, precision), parameters, update if ours else plain_update
        )

    def sampler(model: Network, steps: int, guidance: float) -> Callable[[int], Tensor]:
        return lambda size: setup.sample(model, size, steps, guidance)

    def optimiser_alone(move: Callable[[], None]) -> Callable[[int], None]:
        def run(_: int) -> None:
            for p in parameters:
                p.grad = p.detach()  # the values do not matter; nothing is copied
            move()

        return run

    found: list[tuple[str, str, Callable[[int], Any]]] = []
    gpu = setup.device.type == "cuda"
    precisions = ["bf16"] if gpu else ["fp32", "bf16"]
    sides = {"plain": False, "ours": True}
    for precision in precisions:
        for side, ours in sides.items():
            found.append(("training step", f"{side}, {precision}", step(ours, precision, False)))
    if options.compile:
        for side, ours in sides.items():
            if gpu or ours:  # on a CPU compiling the plain code takes minutes and gains little
                found.append(("training step", f"{side}, bf16, compiled", step(ours, "bf16", True)))
    for side, teach in {"plain": setup.plain_teach, "ours": setup.teach}.items():
        found.append(
            ("teacher", f"{side}, {precisions[0]}", partial(teach, precision=precisions[0]))
        )
    half = copy.deepcopy(setup.model).bfloat16()
    steps = options.sample_steps
    for group, guidance in (("sampler", 1.0), ("guided sampler", GUIDANCE)):
        plain = partial(setup.plain_sample, steps=steps, guidance=guidance)
        found.append((group, "plain, fp32", plain))
        if gpu:
            found.append((group, "plain, bf16", partial(plain, precision="bf16")))
        found.append((group, "ours, fp32", sampler(setup.model, steps, guidance)))
        found.append((group, "ours, bf16 weights", sampler(half, steps, guidance)))
    for side, move in {"plain": plain_update, "ours": update}.items():
        found.append(("optimiser and average", f"{side}, fp32", optimiser_alone(move)))
    made = [Variant(*parts, batch=options.batch) for parts in found]
    if not has_bf16(setup.device):  # emulated products would take minutes and say nothing
        for variant in made:
            if "bf16" in variant.name:
                variant.failed = "no bf16 instructions"
    return made
