"""LeRobot data sets: the same windows as the RLDS original, and one line for what is wrong."""

import json
import shutil

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from benchmarks.lerobot_sets import CAMERA, FPS, edit_json, write_lerobot, write_video
from selfflow_robotics.data.lerobot import index as index_module
from selfflow_robotics.data.lerobot.index import LeRobotIndex
from selfflow_robotics.data.lerobot.info import VERSIONS
from selfflow_robotics.data.lerobot.video import MOST_IDLE, VideoPool
from selfflow_robotics.data.rlds.index import RldsIndex
from selfflow_robotics.data.rlds.windows import WindowReader
from selfflow_robotics.data.robot_data import is_robot_data, open_robot_data, survey_robot_data
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.pages.data_page import page_html
from selfflow_robotics.evaluation.pages.data_report import data_report, report_text
from tests.rlds_sets import GOLDEN_SET, make_grasp, write_set

LENGTHS = [9, 7, 12, 8, 10]


def psnr(one, other):
    return 10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    words = ("pick coke can", "open top drawer")
    episodes = [make_grasp(n, length, words[n % 2]) for n, length in enumerate(LENGTHS)]
    return RldsIndex.open(write_set(tmp_path_factory.mktemp("rlds"), episodes))


@pytest.fixture(scope="module", params=VERSIONS)
def copied(request, tmp_path_factory, original):
    return write_lerobot(tmp_path_factory.mktemp("set") / "toy_lerobot", original, request.param)


@pytest.fixture
def damaged(request, tmp_path, copied):
    return shutil.copytree(copied, tmp_path / "toy")


def first(directory, pattern):
    return sorted(directory.glob(pattern))[0]


def test_windows_are_those_of_the_original(copied, original):
    index = open_robot_data(copied)
    assert isinstance(index, LeRobotIndex)
    assert index.provenance["dataset"] == "toy"
    assert index.provenance["robot"] == "google_robot"
    assert index.layout == original.layout
    options = {"horizon": 6, "future_frames": 3, "image_size": (16, 24), "frame_stride": 2}
    order = np.random.default_rng(0).permutation(sum(LENGTHS))
    one, other = (WindowReader(i, cache_bytes=0, **options).read(order) for i in (index, original))
    for key in ("frames_valid", "actions", "action_valid", "proprio", "episode", "step"):
        np.testing.assert_array_equal(getattr(one, key), getattr(other, key), err_msg=key)
    assert one.instruction == other.instruction
    assert psnr(one.frames, other.frames) > 25  # random colours of 16 x 24 px
    np.testing.assert_array_equal(index.actions, original.actions)


def test_frames_are_those_of_the_video_in_any_order(copied):
    index = open_robot_data(copied)
    plain = []
    for path in sorted((copied / "videos").rglob("*.mp4")):
        with av.open(str(path)) as container:
            plain += [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    generator = np.random.default_rng(1)
    for numbers in (range(index.num_frames), generator.permutation(index.num_frames), [5, 5, 4, 6]):
        frames = index.read_frames(np.array(numbers), index.image_size)
        np.testing.assert_array_equal(frames, np.stack([plain[n] for n in numbers]))


def test_splits_and_instructions(copied, original):
    index = open_robot_data(copied, "train[1:3]")
    assert index.episode_length.tolist() == LENGTHS[1:3]
    np.testing.assert_array_equal(index.actions, original.actions[9:28])
    assert [index.instructions[n] for n in index.first_instructions] == [
        "open top drawer",
        "pick coke can",
    ]
    assert index.fingerprint != open_robot_data(copied).fingerprint
    with pytest.raises(UserError, match="available: train"):
        open_robot_data(copied, "test")
    with pytest.raises(UserError, match="twice"):
        open_robot_data(copied, "train[:3]+train[2:]")


def test_the_index_is_built_once_and_found_again_in_a_copy(copied, tmp_path, monkeypatch):
    monkeypatch.setenv("SELFFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index_module, "CACHE_FROM_EPISODES", 2)
    monkeypatch.setattr(index_module, "EPISODES_PER_PART", 1)
    first_one = LeRobotIndex.open(copied, processes=2)
    folder = tmp_path / "cache" / "lerobot"
    (kept,) = folder.iterdir()
    stored = kept.read_bytes()
    kept.unlink()
    LeRobotIndex.open(copied, processes=1)
    assert kept.read_bytes() == stored

    copy = shutil.copytree(copied, tmp_path / "elsewhere", copy_function=shutil.copyfile)
    with monkeypatch.context() as patch:
        patch.setattr(index_module, "scan_episodes", None)  # a second scan would fail
        again = LeRobotIndex.open(copy)
    assert again.fingerprint == first_one.fingerprint
    np.testing.assert_array_equal(again.frame(20), first_one.frame(20))

    def moved(table):
        place = table.column_names.index("action")
        values = np.stack(table["action"].to_numpy()).copy()
        values[0, 0] += 0.5
        return table.set_column(place, "action", [list(map(list, values))])

    edit_table(copy, moved)
    changed = LeRobotIndex.open(copy)
    assert changed.actions[0, 0] == pytest.approx(first_one.actions[0, 0] + 0.5)
    LeRobotIndex.open(copied, "train[1:]")
    assert len(list(folder.iterdir())) == 3
    tables = load_file(kept)
    tables["place"][0] = 3  # a crafted file, for other episodes
    save_file(tables, kept)
    np.testing.assert_array_equal(LeRobotIndex.open(copied).actions, first_one.actions)


@pytest.mark.parametrize("version", ["v2.0", "v3.0"])
def test_a_golden_episode_as_lerobot_stores_it(tmp_path, version):
    """AV1 with a keyframe every second frame, 256 x 320 px, from SIMPLER."""
    golden = RldsIndex.open(GOLDEN_SET)
    options = {"g": "2", "crf": "30", "svtav1-params": "lp=1"}
    index = open_robot_data(
        write_lerobot(tmp_path / "set", golden, version, codec="libsvtav1", options=options)
    )
    np.testing.assert_array_equal(index.actions, golden.actions)
    np.testing.assert_array_equal(index.proprio, golden.proprio)
    assert index.instructions == golden.instructions
    stored = np.stack([golden.frame(n) for n in range(golden.num_frames)])
    write_video(tmp_path / "plain.mp4", list(stored), FPS, "libsvtav1", options)
    with av.open(str(tmp_path / "plain.mp4")) as container:
        plain = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    read = index.read_frames(range(golden.num_frames), golden.image_size)
    assert abs(psnr(read, stored) - psnr(plain, stored)) < 2
    assert psnr(read, stored) > 35


def test_videos_stay_open_but_not_all(copied):
    pool = VideoPool(FPS)
    path = first(copied, "videos/**/*.mp4")
    with pool.borrow(path) as one, pool.borrow(path) as other:
        assert one is not other  # two threads
    with pool.borrow(path) as again:
        assert again is other or again is one
    paths = [copied.with_name(f"{n}.mp4") for n in range(MOST_IDLE + 3)]
    for one in paths:
        shutil.copy(path, one)
        with pool.borrow(one):
            pass
    assert len(pool._idle) == MOST_IDLE


def test_a_report_on_a_data_set(copied):
    found = survey_robot_data(copied, frames="all")
    report = data_report(found)
    assert report["counts"]["frames_decoded"] == sum(LENGTHS)
    assert report["data"]["control_hz"] == FPS
    assert report["gripper"]["verdict"] == "as expected"
    assert {*report["gripper"]["stored"]} == {"closed", "between", "open"}
    assert report["warnings"] == []
    report_text(report)
    assert page_html(found, report, 2).count("data:image/jpeg") == 6


def edit_info(directory, **told):
    edit_json(directory / "meta" / "info.json", **told)


def edit_features(directory, **told):
    info = json.loads((directory / "meta" / "info.json").read_text())
    edit_info(directory, features={**info["features"], **told})


def edit_table(directory, edit):
    path = first(directory, "data/**/*.parquet")
    pq.write_table(edit(pq.read_table(path)), path)


def without(directory, name):
    info = json.loads((directory / "meta" / "info.json").read_text())
    edit_info(directory, features={k: f for k, f in info["features"].items() if k != name})


def relative(table):
    values = np.stack(table["action"].to_numpy()).copy()
    values[0, 6] = -1
    return table.set_column(table.column_names.index("action"), "action", [list(map(list, values))])


def column(directory, name, edit, pattern="data/**/*.parquet"):
    """Edit the values of a column, as a list."""
    path = first(directory, pattern)
    table = pq.read_table(path)
    values = [edit(table[name].to_pylist())]
    pq.write_table(table.set_column(table.column_names.index(name), name, values), path)


EPISODES = "meta/episodes/**/*.parquet"
START, STOP = (f"videos/{CAMERA}/{name}_timestamp" for name in ("from", "to"))
# What is planted, and what the line says.
FAULTS = {
    "huge rate": (lambda d: edit_info(d, fps=10**400), "fps"),
    "huge split": (lambda d: edit_info(d, splits={"train": "0:" + "9" * 5000}), "train"),
    "fewer episodes": (
        lambda d: edit_info(d, total_episodes=3, splits={"train": "0:3"}),
        "lists 5 episodes",
    ),
    "odd template": (lambda d: edit_info(d, data_path="{episode_index[a]}{file_index}"), "templ"),
    "time not finite": (
        lambda d: column(d, "timestamp", lambda v: [float("nan"), *v[1:]]),
        "timestamp",
    ),
    "time of text": (lambda d: column(d, "timestamp", lambda v: [str(t) for t in v]), "timestamp"),
    "task between": (lambda d: column(d, "task_index", lambda v: [t / 2 for t in v]), "task_index"),
    "task of text": (lambda d: column(d, "task_index", lambda v: ["x"] * len(v)), "task_index"),
    "episode of text": (lambda d: column(d, "episode_index", lambda v: ["x"] * len(v)), "episode"),
    "uneven actions": (
        lambda d: column(d, "action", lambda v: [v[0][:6], [*v[1], 0.0], *v[2:]]),
        "action",
    ),
    "two actions": (
        lambda d: edit_table(d, lambda table: table.append_column("action", table["action"])),
        "action",
    ),
    "version": (lambda d: edit_info(d, codebase_version="v1.6"), "v1.6"),
    "rate": (lambda d: edit_info(d, fps=10), "10"),
    "no rate": (lambda d: edit_info(d, fps=None), "fps"),
    "no action": (lambda d: without(d, "action"), "action"),
    "no video": (lambda d: without(d, CAMERA), "video"),
    "joints": (
        lambda d: edit_features(d, action={"dtype": "float32", "shape": [6], "names": None}),
        r"\[6\]",
    ),
    "other state": (
        lambda d: edit_features(
            d, **{"observation.state": {"shape": [8], "names": [f"joint_{n}" for n in range(8)]}}
        ),
        "joint_0",
    ),
    "leaving": (lambda d: edit_info(d, data_path="../data.parquet"), "out of"),
    "missing table": (lambda d: first(d, "data/**/*.parquet").unlink(), "missing"),
    "missing video": (lambda d: first(d, "videos/**/*.mp4").unlink(), "missing"),
    "damaged table": (lambda d: first(d, "data/**/*.parquet").write_bytes(b"PAR1"), "parquet"),
    "damaged video": (lambda d: first(d, "videos/**/*.mp4").write_bytes(b"no"), "mp4"),
    "fewer rows": (lambda d: edit_table(d, lambda table: table.slice(0, 5)), "5 steps"),
    "relative gripper": (lambda d: edit_table(d, relative), "-1"),
    "fewer frames": (
        lambda d: write_video(
            first(d, "videos/**/*.mp4"), [np.zeros((16, 24, 3), np.uint8)] * 3, FPS, "libx264", {}
        ),
        "3 frames",
    ),
    "other size": (
        lambda d: write_video(
            first(d, "videos/**/*.mp4"), [np.zeros((32, 24, 3), np.uint8)] * 99, FPS, "libx264", {}
        ),
        "32 x 24",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_said_in_one_line(damaged, fault):
    plant, told = FAULTS[fault]
    plant(damaged)
    with pytest.raises(UserError, match=told) as caught:
        open_robot_data(damaged)
    assert "\n" not in str(caught.value)
    assert str(damaged) in str(caught.value)


def write_tasks(directory, *tasks, key="task"):
    rows = [{"task_index": number, key: text} for number, text in enumerate(tasks)]
    (directory / "meta" / "tasks.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8"
    )


def again(directory, name):
    path = directory / "meta" / name
    path.write_text(path.read_text() + path.read_text().splitlines()[0].replace("pick", "push"))


FAULTS_OF = {
    "v2.1": {
        "no text": (lambda d: write_tasks(d, None, "b"), "task 0"),
        "other key": (lambda d: write_tasks(d, "a", "b", key="text"), "task 0"),
        "task twice": (lambda d: again(d, "tasks.jsonl"), "task 0"),
        "episode twice": (lambda d: again(d, "episodes.jsonl"), "6 episodes"),
    },
    "v3.0": {
        "no text": (
            lambda d: column(d, "__index_level_0__", lambda v: [None, "b"], "meta/tasks.parquet"),
            "task 0",
        ),
        "no file": (
            lambda d: column(d, "data/file_index", lambda v: [None, *v[1:]], EPISODES),
            "N",
        ),
        "same frames": (lambda d: column(d, START, lambda v: [0.0] * len(v), EPISODES), "starts"),
        "before": (lambda d: column(d, START, lambda v: [-1.0, *v[1:]], EPISODES), "-1.0"),
        "never": (lambda d: column(d, START, lambda v: [float("nan"), *v[1:]], EPISODES), "nan"),
        "no length": (lambda d: column(d, "length", lambda v: [None, *v[1:]], EPISODES), "length"),
        "backwards": (lambda d: column(d, STOP, lambda v: [*v[:2], 0.0, *v[3:]], EPISODES), "to_t"),
        "no end": (lambda d: column(d, STOP, lambda v: [None, *v[1:]], EPISODES), "to_t"),
        "more frames": (lambda d: edit_info(d, total_frames=47), "46 frames"),
        "frames of text": (lambda d: edit_info(d, total_frames="46"), "total_frames"),
        "episode twice": (
            lambda d: column(d, "episode_index", lambda v: [1, *v[1:]], EPISODES),
            "lacks 1",
        ),
    },
}


@pytest.mark.parametrize("version", FAULTS_OF)
def test_metadata_that_disagree_are_refused(tmp_path, original, version):
    whole = write_lerobot(tmp_path / "whole", original, version)
    for fault, (plant, told) in FAULTS_OF[version].items():
        directory = shutil.copytree(whole, tmp_path / fault)
        plant(directory)
        with pytest.raises(UserError, match=told) as caught:
            open_robot_data(directory)
        assert "\n" not in str(caught.value), fault


def test_any_words(tmp_path, original):
    directory = write_lerobot(tmp_path / "set", original, "v2.1")
    words = ["pick\u2028up the \x85 Dose", "öffne 抽屉 🤖"]
    write_tasks(directory, *words)
    assert open_robot_data(directory).instructions == words


def test_a_gripper_that_is_not_finite_leaves_the_episode_out(damaged):
    column(damaged, "action", lambda v: [[*v[0][:6], float("nan")], *v[1:]])
    index = open_robot_data(damaged)
    assert index.left_out["numbers not finite"] == 1
    assert index.episode_length.tolist() == LENGTHS[1:]


def test_splits_that_share_episodes_do_not_add_up(damaged):
    edit_info(damaged, splits={"train": "0:4", "val": "3:5"})
    assert open_robot_data(damaged, "val").num_episodes == 2
    with pytest.raises(UserError, match="twice"):
        open_robot_data(damaged, "train+val")


@pytest.mark.parametrize("fault", ["missing table", "damaged video", "fewer rows"])
def test_a_survey_goes_on_after_damage(damaged, fault):
    plant, _ = FAULTS[fault]
    plant(damaged)
    found = survey_robot_data(damaged)
    bad = len(LENGTHS) - len(found.episodes)
    assert bad in (1, 3)  # version 3 has three episodes in a file
    assert [one.kind for one in found.faults] == ["record"] * bad


def test_a_frame_that_cannot_be_decoded_is_a_fault(tmp_path, original):
    directory = write_lerobot(tmp_path / "set", original, "v2.1")
    path = first(directory, "videos/**/*.mp4")
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    data[start : start + 400] = bytes(400)
    path.write_bytes(data)
    found = survey_robot_data(directory, frames="all")
    assert {(fault.kind, fault.record) for fault in found.faults} == {("frame", 0)}
    assert len(found.episodes) == len(LENGTHS)


def test_which_folders_are_robot_data(copied, tmp_path):
    assert is_robot_data(copied)
    assert is_robot_data(GOLDEN_SET)
    assert not is_robot_data(tmp_path)
    with pytest.raises(UserError, match="~nobody"):
        open_robot_data("~nobody of this name/toy")
