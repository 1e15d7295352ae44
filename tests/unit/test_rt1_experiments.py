"""The paper's robot experiment at full size: it composes, and its network has the right size."""

import runpy
from pathlib import Path

import pytest
import torch

from selfflow_robotics.autoencoders.load import AutoencoderConfig
from selfflow_robotics.cli.app import compose
from selfflow_robotics.cli.arguments import to_overrides
from selfflow_robotics.modalities.latents import ImageLatents
from selfflow_robotics.models.network import Network
from selfflow_robotics.models.text import TextConfig

ROOT = Path(__file__).parents[2]


def composed(script, name, *arguments):
    schema = runpy.run_path(str(ROOT / script), run_name="imported")["main"].schema
    [config] = compose(name, schema, to_overrides(arguments, (), name))
    return config


def robot(experiment, *changes):
    return composed("finetune/rt1.py", "finetune", f"experiment={experiment}", *changes)


def network(config):
    height, width = config.model.image_size
    codec = ImageLatents(
        (height // 8, width // 8), 4, config.model.patch // 8, AutoencoderConfig("sd_vae"), None, 8
    )
    text = TextConfig("embeddings", tokens=config.text.tokens, channels=768)
    with torch.device("meta"):
        return Network(config.model.network(codec, text))


@pytest.mark.parametrize("experiment", ["rt1_joint", "rt1_policy", "rt1_world_model"])
def test_the_network_is_sit_xl_and_reads_the_papers_windows(experiment):
    config = robot(experiment)
    built = network(config)
    assert sum(p.numel() for p in built.parameters()) == pytest.approx(683e6, rel=0.01)
    assert built.config.adapters["frames"].channels == 16  # as the released weights
    assert built.config.adapters["frames"].steps == 49
    assert config.model.action_horizon == (48 if experiment == "rt1_world_model" else 6)
    assert [role for role, weight in config.roles.items() if weight] == [experiment[4:]]
    assert config.conditioning.frame_noise == 0.2
    assert (config.train.steps, config.train.save_every, config.train.keep_checkpoints) == (
        100_000, 10_000, 10,
    )  # fmt: skip


def test_self_flow_s_loss_is_off_and_can_be_turned_on():
    off = robot("rt1_joint").frame_objective
    on = robot(
        "rt1_joint", "objective@frame_objective=self_flow", "frame_objective.mask_ratio=0.1"
    ).frame_objective
    assert (off.gamma, off.mask_ratio) == (0, 0)  # one timestep for frames and actions
    assert (on.gamma, on.mask_ratio, on.student_layer, on.teacher_layer) == (0.8, 0.1, 8, 20)


def test_the_video_run_has_the_network_of_the_fine_tuning():
    video = composed("pretrain/run.py", "pretrain", "experiment=rt1_video")
    assert video.model.transformer == robot("rt1_joint").model.transformer
    assert (video.clip_frames, video.objective.mask_ratio) == (49, 0.1)
    assert (video.objective.student_layer, video.objective.teacher_layer) == (8, 20)
