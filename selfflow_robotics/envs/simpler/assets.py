"""Check that SIMPLER's checkout has the files that a task needs.

SIMPLER itself fails late or not at all: an object without a visual mesh is invisible, and only its
log says so.
"""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from string import Formatter

from selfflow_robotics.envs.tasks.base import Choice, Task
from selfflow_robotics.errors import UserError

# Visual meshes; SIMPLER uses the first that exists (envs/custom_scenes/base_env.py).
_MESHES = ("textured.obj", "textured.dae", "textured.glb")
# SIMPLER's stages are larger than this; a stand-in box of the table's height has a few kilobytes.
STAND_IN_BYTES = 1 << 20


def check_assets(task: Task, assets: Path, allow_invisible: bool = False) -> None:
    """Raise UserError, naming task and file, if SIMPLER's asset folder lacks what `task` needs.

    Files that only other tasks need may be missing, and so may the visual meshes of some variants
    (`missing_variants`). allow_invisible: visual meshes may be missing; objects move and collide as
    usual (`invisible_models`).
    """
    for file in _files(task):
        if not (assets / file).is_file():
            raise UserError(
                f"SIMPLER's checkout lacks {file}, which {task.name} needs: complete the checkout"
            )
    stage_file = task.bound().stage_file
    if stage_file and not task.bound().overlay and is_stand_in(assets / stage_file):
        raise UserError(
            f"SIMPLER's checkout has a stand-in for {stage_file}, which {task.name} would show: "
            "complete the checkout"
        )
    missing = {} if allow_invisible else missing_variants(task, assets)
    if len(missing) == len(task.variants):
        raise UserError(next(iter(missing.values())))


def is_stand_in(stage: Path) -> bool:
    """Whether this file is a small substitute for one of SIMPLER's stages."""
    return stage.stat().st_size < STAND_IN_BYTES


def missing_variants(task: Task, assets: Path) -> dict[str, str]:
    """The variants of `task` in which an object would be invisible, with the reason."""
    binding, invisible = task.bound(), set(invisible_models(task, assets))
    found = {}
    for variant in task.variants:
        for model in binding.models_of.get(variant, binding.models):
            if model in invisible:
                found[variant] = (
                    f"SIMPLER's checkout has none of {', '.join(_MESHES)} in custom/models/{model}"
                    f", so an object of {task.name} would be invisible: complete the checkout, "
                    "or pass simpler.allow_invisible=true to play with it invisible"
                )
    return found


def invisible_models(task: Task, assets: Path) -> list[str]:
    """The models of `task` without a visual mesh, by folder in custom/models."""
    models = assets / "custom" / "models"
    return [
        model
        for model in task.bound().models
        if not any((models / model / mesh).is_file() for mesh in _MESHES)
    ]


def _files(task: Task) -> Iterator[str]:
    """The files without alternatives, relative to the asset folder."""
    binding = task.bound()
    if binding.stage_file:
        yield binding.stage_file
    yield from binding.files
    for model in binding.models:
        yield f"custom/models/{model}/collision.obj"
    yield from photographs(task)


def photographs(task: Task) -> Iterator[str]:
    """The photographs of all episodes of `task`, relative to the asset folder."""
    overlay = task.bound().overlay
    if not overlay:
        return
    names = [name for _, name, _, _ in Formatter().parse(overlay) if name]
    options = [task.starts[name] for name in names]
    choices = [option.values for option in options if isinstance(option, Choice)]
    for values in product(*choices):
        yield overlay.format(**dict(zip(names, values, strict=True)))
