"""`policy=` of an evaluation, and what a policy says about itself."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfflow_robotics.envs.spec import MAX_TIMEOUT_S, SIMPLER_IMAGE_SIZE
from selfflow_robotics.errors import UserError, unknown
from selfflow_robotics.evaluation.ledger import NETWORK_SETTINGS
from selfflow_robotics.flow.guidance import check_extrapolation, check_scale
from selfflow_robotics.flow.solvers import Method, check_num_steps
from selfflow_robotics.policies.address import PREFIX, is_remote, parse_address
from selfflow_robotics.policies.base import Policy
from selfflow_robotics.policies.custom import is_custom
from selfflow_robotics.policies.execution import ExecutionConfig, Mode
from selfflow_robotics.policies.expert import ScriptedExpert
from selfflow_robotics.policies.flow_policy import FlowPolicy, Precision
from selfflow_robotics.policies.random import RandomPolicy

BUILT_IN = ("network", "random", "expert")


@dataclass(frozen=True)
class RemoteConfig:
    """How a policy server is asked."""

    timeout_s: float = 30.0
    image_key: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.timeout_s <= MAX_TIMEOUT_S:
            raise UserError(
                f"remote.timeout_s must be in (0, {MAX_TIMEOUT_S}], got {self.timeout_s:g}"
            )
        if self.image_key == "":
            raise UserError("remote.image_key is empty; leave it out for the usual one")


@dataclass(frozen=True)
class NetworkSettings:
    """The settings of a command that only concern a network of this project."""

    policy: str = "network"
    checkpoint: str | None = None
    replan_steps: int = 6
    num_steps: int | None = None
    guidance_scale: float | None = None
    extrapolation: float | None = None
    joint: bool = False
    instruction: str | None = None
    execution: Mode = "receding"
    delay: int = 0
    ensemble_decay: float = 0.01
    solver: Method = "euler"
    precision: Precision = "fp32"
    compile: bool = False
    device: str = "auto"


# Settings that only a network has, and their defaults.
_DEFAULTS = {
    "checkpoint": None,
    "num_steps": None,
    "guidance_scale": None,
    **NETWORK_SETTINGS,
}


def check_network_settings(settings: NetworkSettings) -> None:
    """Raise UserError if one is out of range, or is set for another policy."""
    if settings.num_steps is not None:
        check_num_steps(settings.num_steps)
    if settings.guidance_scale is not None:
        check_scale(settings.guidance_scale)
    if settings.extrapolation is not None:
        check_extrapolation(settings.extrapolation)
    for name, default in _DEFAULTS.items():
        if settings.policy != "network" and getattr(settings, name) != default:
            raise UserError(f"{name} is for a network; remove it, or policy={settings.policy}")
    ExecutionConfig(
        settings.execution, settings.replan_steps, settings.delay, settings.ensemble_decay
    )


def network_policy(checkpoint: Path, settings: NetworkSettings) -> FlowPolicy:
    """The network of `checkpoint` as a policy."""
    return FlowPolicy.from_checkpoint(
        checkpoint,
        device=settings.device,
        replan_steps=settings.replan_steps,
        num_steps=settings.num_steps,
        guidance_scale=settings.guidance_scale,
        extrapolation=settings.extrapolation,
        joint=settings.joint,
        instruction=settings.instruction,
        execution=settings.execution,
        delay=settings.delay,
        ensemble_decay=settings.ensemble_decay,
        solver=settings.solver,
        precision=settings.precision,
        compiled=settings.compile,
    )


def network_fingerprint(settings: NetworkSettings) -> dict[str, Any]:
    """The settings that results depend on, as far as they are not the default."""
    return {
        name: getattr(settings, name)
        for name, default in NETWORK_SETTINGS.items()
        if getattr(settings, name) != default
    }


def check_policy(text: str) -> None:
    """Raise UserError if `policy=` has none of its forms."""
    if is_remote(text):
        parse_address(text)
    elif text not in BUILT_IN and not is_custom(text):
        choices = [*BUILT_IN, f"{PREFIX}ws://HOST:PORT", "module:Class"]
        raise UserError(f"policy: {unknown('value', text, choices)}")


def data_of(policy: Policy) -> dict[str, Any] | None:
    """Provenance of the data that the policy was trained on; None if there are none, or if it does
    not say."""
    return getattr(policy, "data_provenance", None)


def provenance_of(policy: Policy, checkpoint: Path | None) -> dict[str, Any] | None:
    """Where the policy comes from, for its report; None for the built-in ones."""
    if checkpoint is not None:
        return {"checkpoint": str(checkpoint), "data": data_of(policy)}
    origin = getattr(policy, "fingerprint", None)
    if origin is None:
        return None
    return {
        **origin,
        "data": data_of(policy),
        **({"privileged": True} if policy.privileged else {}),
    }


def image_size_of(policy: Policy) -> tuple[int, int] | None:
    """(height, width) at which to render for the policy; None: it has no wish. One that does not
    say gets RT-1's size."""
    if isinstance(policy, RandomPolicy | ScriptedExpert):
        return None
    return getattr(policy, "image_size", None) or SIMPLER_IMAGE_SIZE
