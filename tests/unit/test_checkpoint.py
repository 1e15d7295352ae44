"""Checkpoints: whole or absent, checked before use, never executed."""

import json

import pytest
import torch

from selfflow_robotics.errors import UserError
from selfflow_robotics.training import checkpoint as ckpt


@pytest.fixture
def saved(tmp_path):
    parts = {"model": {"w": torch.arange(1000.0)}, "teacher": {"w": torch.zeros(3)}}
    return ckpt.save_checkpoint(tmp_path / "checkpoints", 7, parts, {"note": "x"})


def test_what_is_saved_is_loaded(saved):
    assert torch.equal(ckpt.load_part(saved, "model")["w"], torch.arange(1000.0))
    manifest = ckpt.read_manifest(saved)
    assert (manifest["step"], manifest["extra"]) == (7, {"note": "x"})
    assert ckpt.latest_checkpoint(saved.parent.parent) == saved
    assert ckpt.resolve_checkpoint(saved.parent.parent) == saved
    assert ckpt.resolve_checkpoint(saved) == saved


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-100]), "truncated"),
        (lambda p: p.write_bytes(p.read_bytes()[:-1] + b"\x55"), "checksum"),
        (lambda p: p.unlink(), "missing"),
    ],
)
def test_a_damaged_file_is_refused(saved, damage, message):
    damage(saved / "model.safetensors")
    with pytest.raises(UserError, match=message):
        ckpt.load_part(saved, "model")


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "damaged"), ("[]", "damaged"), ("5", "damaged"), ('{"format": 99}', "format 99")],
)
def test_a_damaged_manifest_is_refused(saved, text, message):
    (saved / ckpt.MANIFEST).write_text(text)
    with pytest.raises(UserError, match=message):
        ckpt.load_part(saved, "model")


@pytest.mark.parametrize(
    "change",
    [
        {"files": None},
        {"files": {"a": 5}},
        {"files": {"a": {}}},
        {"step": "7"},
        {"step": None},
        {"step": True},
        {"step": 8},
        {"step": -7},
        {"step": 10**30},
    ],
)
def test_a_manifest_of_other_types_is_refused(saved, change):
    manifest = json.loads((saved / ckpt.MANIFEST).read_text())
    (saved / ckpt.MANIFEST).write_text(json.dumps(manifest | change))
    with pytest.raises(UserError, match=r"manifest.json is damaged \(.+\); use another"):
        ckpt.read_manifest(saved)
    kept = {key: manifest[key] for key in manifest.keys() - change}
    (saved / ckpt.MANIFEST).write_text(json.dumps(kept))
    with pytest.raises(UserError, match=r"manifest.json is damaged"):
        ckpt.read_manifest(saved)


def test_an_unfinished_save_is_never_chosen_and_is_cleaned_up(saved):
    left = saved.parent / ".step_0000009.123.tmp"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    assert ckpt.latest_checkpoint(saved.parent.parent) == saved
    ckpt.prune_checkpoints(saved.parent, keep=1)
    assert not left.exists()
    assert saved.exists()


def test_a_newest_checkpoint_without_its_manifest_is_no_reason_to_start_again(saved):
    run = saved.parent.parent
    newer = ckpt.save_checkpoint(run / "checkpoints", 8, {}, {})
    (newer / ckpt.MANIFEST).unlink()
    for check in (ckpt.check_manifests, ckpt.resolve_checkpoint):
        with pytest.raises(UserError, match=newer.name):
            check(run)
    newer.rename(newer.with_name("step_0000006"))  # older ones do not matter
    assert ckpt.resolve_checkpoint(run) == saved
    (saved / ckpt.MANIFEST).unlink()
    with pytest.raises(UserError, match=saved.name):
        ckpt.check_manifests(run)


def test_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 3):
        ckpt.save_checkpoint(tmp_path, step, {"model": {"w": torch.zeros(1)}}, {})
    ckpt.prune_checkpoints(tmp_path, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_0000002", "step_0000003"]


def test_a_missing_checkpoint_says_what_to_give(tmp_path):
    with pytest.raises(UserError, match="no checkpoint at"):
        ckpt.resolve_checkpoint(tmp_path / "nowhere")


def test_weights_of_another_shape_are_refused(saved):
    with pytest.raises(UserError, match="model: "):
        ckpt.load_weights(torch.nn.Linear(2, 2), {"weight": torch.zeros(3, 3)}, saved)


def test_a_folder_that_is_a_file_is_one_clear_error(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        ckpt.save_checkpoint(tmp_path / "checkpoints", 1, {"model": {}}, {})


def test_checkpoints_are_ordered_by_step_also_beyond_seven_digits(tmp_path):
    folder = tmp_path / "checkpoints"
    for step in (9_999_999, 10_000_000, 998):
        ckpt.save_checkpoint(folder, step, {"model": {"w": torch.zeros(1)}}, {})
    assert ckpt.latest_checkpoint(tmp_path).name == "step_10000000"
    ckpt.prune_checkpoints(folder, keep=2)
    assert {path.name for path in folder.iterdir()} == {"step_9999999", "step_10000000"}


@pytest.mark.parametrize("name", ["manifest.json", "teacher.safetensors"])
def test_a_damaged_newest_checkpoint_says_how_to_go_on(saved, name):
    run = saved.parent.parent
    (saved / name).write_text("{")
    with pytest.raises(UserError, match="name="), ckpt.resuming(run):
        ckpt.load_part(saved, "teacher")
    ckpt.save_checkpoint(saved.parent, 3, {"teacher": {"w": torch.zeros(3)}}, {})
    advice = rf"remove {saved} .* step 3$"
    with pytest.raises(UserError, match=advice), ckpt.resuming(run):
        ckpt.load_part(saved, "teacher")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"format": 1, "extra": ' + "[" * 100_000, "1" * 5000]
)
def test_nested_and_endless_manifests_are_one_line(saved, text):
    (saved / ckpt.MANIFEST).write_text(text)
    with pytest.raises(UserError, match=r"manifest.json is damaged"):
        ckpt.read_manifest(saved)


def test_a_manifest_of_gigabytes_is_not_read(saved):
    with (saved / ckpt.MANIFEST).open("r+b") as file:
        file.truncate(2**40)  # takes no space on disk
    with pytest.raises(UserError, match="bytes"):
        ckpt.read_manifest(saved)


def test_a_step_beyond_all_runs_is_refused_and_a_copy_may_have_any_name(saved):
    huge = saved.rename(saved.with_name("step_" + "9" * 200))
    assert ckpt.latest_checkpoint(saved.parent.parent) == huge
    with pytest.raises(UserError, match="is damaged"):
        ckpt.read_manifest(huge)
    assert ckpt.read_manifest(huge.rename(saved.with_name("best")))["step"] == 7


@pytest.mark.parametrize(
    "build",
    [
        lambda: torch.nn.Linear(10**6, 10**6),
        lambda: torch.nn.Linear(2, 2, bias=False),
        lambda: torch.nn.Linear(2.0, 2),
        lambda: torch.nn.Linear(10**30, 2),
    ],
)
def test_a_network_of_another_size_is_refused_before_it_takes_memory(saved, build):
    tensors = {"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}
    with pytest.raises(UserError, match=r"does not match|invalid network"):
        ckpt.load_module(build, tensors, saved)
    made = ckpt.load_module(lambda: torch.nn.Linear(2, 2), tensors, saved)
    assert torch.equal(made.weight, tensors["weight"])
