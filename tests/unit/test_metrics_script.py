"""eval/metrics.py: npz and folders, ADM's files both ways, and every mistake as one line."""

import json
import runpy
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from selfflow_robotics.encoders.features import load_features
from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.metrics.conventions import differences, published_rows
from selfflow_robotics.evaluation.metrics.frechet import Gaussian
from selfflow_robotics.evaluation.metrics.measure import plan
from selfflow_robotics.evaluation.metrics.precision_recall import precision_recall
from selfflow_robotics.evaluation.metrics.sources import Source
from tests.unit.test_metrics import gaussian, plain_frechet

ROOT = Path(__file__).parents[2]
script = runpy.run_path(str(ROOT / "eval" / "metrics.py"), run_name="imported")
main, Config = script["main"], script["MetricsConfig"]


def measure(*samples, **settings):
    """As the command, without its parser, which takes most of the time."""
    usual = {"features": "pixels:2", "device": "cpu", "batch_size": 7}
    main.__wrapped__(Config(samples=samples, **{**usual, **settings}))


def pictures(seed, count=40, size=8, bright=0):
    rng = np.random.Generator(np.random.PCG64(seed))
    return rng.integers(bright, 256, (count, size, size, 3), dtype=np.uint8)


def write_folder(folder, images):
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:04d}.png")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Samples and a reference, 8 x 8 px."""
    monkeypatch.chdir(tmp_path)
    np.savez("samples.npz", arr_0=pictures(0))
    np.savez("real.npz", arr_0=pictures(1, 50, bright=40))
    return tmp_path


def result(folder="."):
    (path,) = Path(folder).glob("metrics-*/metrics.json")
    return json.loads(path.read_text())


def values(report):
    return {row["metric"]: row["value"] for row in report["rows"]}


def features(images, side=2):
    """As the features pixels:2, written plainly."""
    count, size = images.shape[:2]
    blocks = images.reshape(count, side, size // side, side, size // side, 3) / 255
    return blocks.mean(axis=(2, 4)).transpose(0, 3, 1, 2).reshape(count, -1)


def test_samples_are_measured_against_a_reference(here, capsys):
    command = ["features=pixels:2", "device=cpu", "samples.npz", "--reference", "real.npz"]
    main(command)
    found = values(result())
    real, made = features(pictures(1, 50, bright=40)), features(pictures(0))
    assert found["frechet"] == pytest.approx(plain_frechet(real, made), rel=1e-4)
    shares = precision_recall(real, made)
    assert (found["precision"], found["recall"]) == tuple(share.value for share in shares)
    frechet = result()["rows"][0]
    assert (frechet["num_samples"], frechet["num_reference"]) == (40, 50)
    halves = [plain_frechet(real, made[start::2]) for start in (0, 1)]
    assert frechet["half"] == pytest.approx(np.mean(halves), rel=1e-4)
    assert frechet["extrapolated"] == pytest.approx(
        2 * frechet["value"] - frechet["half"], rel=1e-9
    )
    out = capsys.readouterr().out
    assert "not InceptionV3's" in out
    main(command)
    assert "already measured" in capsys.readouterr().out


def test_the_batch_size_changes_nothing(here):
    numbers = []
    for size in (1, 7, 64):
        measure("samples.npz", reference="real.npz", batch_size=size, output=f"out{size}")
        numbers.append(values(result(f"out{size}")))
    for other in numbers[1:]:
        assert other == pytest.approx(numbers[0], rel=1e-6)


def test_a_folder_is_the_same_as_an_npz(here):
    write_folder(here / "real", pictures(1, 50, bright=40))
    write_folder(here / "made" / "class", pictures(0))
    measure("samples.npz", reference="real.npz", output="a")
    measure("made", reference="real", output="b")
    assert values(result("a")) == pytest.approx(values(result("b")), rel=1e-9)


def test_equal_sets_are_at_zero(here):
    measure("samples.npz", reference="samples.npz")
    found = values(result())
    assert found["frechet"] == pytest.approx(0, abs=1e-9)
    assert (found["precision"], found["recall"]) == (1, 1)


def test_several_samples_are_compared_at_once(here):
    np.savez("others.npz", arr_0=pictures(2, bright=40))
    measure("samples.npz", "others.npz", reference="real.npz", output="out")
    found = [json.loads(p.read_text()) for p in Path("out").glob("*/metrics.json")]
    by_name = {report["samples"].split()[0]: values(report)["frechet"] for report in found}
    assert by_name["others.npz"] < by_name["samples.npz"]


def read_as_adm(path):
    """A reader of ADM's layout: zip members, npy headers of version 1.0 in C order."""
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for name in ("arr_0", "mu", "sigma", "mu_s", "sigma_s"):
            if f"{name}.npy" not in archive.namelist():
                continue
            with archive.open(f"{name}.npy") as file:
                assert np.lib.format.read_magic(file) == (1, 0)
                shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
                assert not fortran
                arrays[name] = np.frombuffer(file.read(), dtype).reshape(shape)
    return arrays


def test_a_reference_of_ones_own_data_is_adms(here, monkeypatch):
    module = "selfflow_robotics.evaluation.metrics.make_reference.KEPT"
    monkeypatch.setattr(module, 20)
    measure(reference="real.npz", write_reference="ref/own.npz")
    arrays = read_as_adm("ref/own.npz")
    real = pictures(1, 50, bright=40)
    kept = {image.tobytes() for image in arrays["arr_0"]}
    assert arrays["arr_0"].dtype == np.uint8
    assert len(kept) == 20
    assert kept < {image.tobytes() for image in real}
    whole = gaussian(features(real))
    np.testing.assert_allclose(arrays["mu"], whole.mean, rtol=1e-5)
    np.testing.assert_allclose(arrays["sigma"], whole.covariance, rtol=1e-3, atol=1e-7)
    measure("samples.npz", reference="ref/own.npz", output="own")
    measure("samples.npz", reference="real.npz", output="images")
    rows = {row["metric"]: row for row in result("own")["rows"]}
    assert rows["frechet"]["num_reference"] == 50
    assert rows["recall"]["num_reference"] == 20
    assert rows["frechet"]["value"] == pytest.approx(values(result("images"))["frechet"], rel=1e-6)


def test_adms_statistics_without_images_serve_the_frechet_distance(here):
    """Given features: two Gaussians that a file of ADM's could hold."""
    made, real = features(pictures(0)), gaussian(features(pictures(1, 50, bright=40)))
    np.savez("features.npz", arr_0=made)
    np.savez("adm.npz", mu=real.mean, sigma=real.covariance)
    measure("features.npz", reference="adm.npz", features="given", metrics=["frechet"])
    expected = plain_frechet(features(pictures(1, 50, bright=40)), made)
    assert values(result())["frechet"] == pytest.approx(expected, rel=1e-9)
    assert result()["rows"][0]["num_reference"] is None


def test_the_newest_samples_of_a_run_meet_its_training_images(here):
    run = here / "runs" / "images"
    folder = run / "eval" / "generation-sde2-0"
    folder.mkdir(parents=True)
    settings = {"data": None, "root": "datasets", "num_shapes": 20, "shape_px": 8}
    (run / "config.yaml").write_text(json.dumps(settings))
    np.savez(folder / "samples.npz", arr_0=pictures(0))
    measure()
    assert "datasets/shapes_20_8px_0 (20 of 8 x 8 x 3)" in result(folder)["reference"]


def _nothing():
    pass


def _array(**arrays):
    return lambda: np.savez("samples.npz", **arrays)


def _cut():
    path = Path("samples.npz")
    path.write_bytes(path.read_bytes()[:-900])


def _flipped():
    data = bytearray(Path("samples.npz").read_bytes())
    data[len(data) // 2] ^= 1
    Path("samples.npz").write_bytes(data)


def _text():
    Path("samples.npz").write_text("no zip")


def _damaged_folder():
    write_folder(Path("made"), pictures(0, 3))
    Path("made/0001.png").write_bytes(b"no image")


def _statistics(**changes):
    arrays = {"mu": np.zeros(12), "sigma": np.eye(12), **changes}
    return lambda: np.savez("real.npz", **arrays)


FRECHET = {"metrics": ["frechet"]}


@pytest.mark.parametrize(
    ("prepare", "settings", "message"),
    [
        (_nothing, {"samples": ()}, "no samples in runs/"),
        (_nothing, {"reference": None}, "Pass --reference"),
        (_nothing, {"samples": ("no.npz",)}, "no.npz does not exist"),
        (_nothing, {"samples": ("no",), "reference": None}, "no does not exist"),
        (_nothing, {"reference": "nowhere"}, "nowhere does not exist"),
        (_cut, {}, "samples.npz is damaged or no npz"),
        (_flipped, {}, "samples.npz is damaged or no npz"),
        (_text, {}, "samples.npz is damaged or no npz"),
        (_array(x=pictures(0)), {}, "has neither arr_0 nor mu"),
        (_array(arr_0=pictures(0)[..., :2]), {}, "8 x 8 x 2"),
        (_array(arr_0=pictures(0) / 1), {}, "not images, uint8"),
        (_array(arr_0=np.asfortranarray(pictures(0))), {}, "must be in C order"),
        (_array(arr_0=np.array([{}], dtype=object)), {}, "must be in C order"),
        (_array(arr_0=pictures(0, 12)), {}, "12 samples are too few for 12 features"),
        (_array(arr_0=pictures(0, 40, size=4)), {}, "samples.npz is of 4 x 4 x 3"),
        (_array(arr_0=pictures(0, 3)), {"metrics": ["precision_recall"]}, "more than 3"),
        (_statistics(), {}, "are of other features (inception)"),
        (_statistics(features="pixels:2"), {}, "real.npz has no arr_0"),
        (_statistics(sigma=np.eye(11)), {}, "not a mean [D] and a covariance"),
        (_statistics(mu=np.full(12, np.nan)), {}, "of finite numbers"),
        (
            _statistics(features="pixels:2", mu=np.zeros(3), sigma=np.eye(3)),
            FRECHET,
            "features of 3 and of 12 numbers",
        ),
        (_statistics(features="pixels:2", sigma=-np.eye(12)), FRECHET, "not symmetric and"),
        (_damaged_folder, {"samples": ("made",)}, "0001.png: not an image"),
        (_nothing, {"metrics": ["fdi"]}, "unknown metric 'fdi'"),
        (_nothing, {"metrics": []}, "metrics=[] measures nothing"),
        (_nothing, {"features": "resnet"}, "unknown features 'resnet'"),
        (_nothing, {"features": "given", **FRECHET}, "not features, float"),
        (_nothing, {"batch_size": 0}, "batch_size must be at least 1"),
        (_nothing, {"features": "clip", "captions": "no.txt"}, "the captions in no.txt"),
        (_nothing, {"metrics": ["clip_score"]}, "the captions in samples.txt"),
        (_nothing, {"write_reference": "x.npz"}, "pass --reference IMAGES"),
        (_nothing, {"samples": (), "write_reference": "samples.npz"}, "samples.npz exists"),
        (_nothing, {"output": "/proc/no"}, "cannot write results to /proc/no"),
    ],
)
def test_a_mistake_is_one_line(here, prepare, settings, message):
    prepare()
    settings = {"samples": ("samples.npz",), "reference": "real.npz", **settings}
    with pytest.raises(UserError) as caught:
        measure(*settings.pop("samples"), **settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mistake_has_exit_code_2(here, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["features=pixels:2", "no.npz", "--reference", "real.npz"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: no.npz does not exist")


def test_features_that_are_not_finite_name_their_sample(here):
    made = features(pictures(0))
    made[23] = np.inf
    np.savez("features.npz", arr_0=made)
    np.savez("real_features.npz", arr_0=features(pictures(1)))
    with pytest.raises(UserError, match=r"features\.npz: the features of sample 23 are not finite"):
        measure("features.npz", reference="real_features.npz", features="given")


@pytest.mark.parametrize(
    ("metrics", "chosen", "expected"),
    [
        (None, None, {"inception": ["fid", "sfid", "inception_score", "precision_recall"]}),
        (None, "run:a", {"run:a": ["frechet", "precision_recall"]}),
        (None, "dinov2-l", {"dinov2-l": ["fd_dinov2", "precision_recall"]}),
        (
            ["fid", "precision_recall"],
            "run:a",
            {"inception": ["fid"], "run:a": ["precision_recall"]},
        ),
        (["fvd"], None, {"video": ["fvd"]}),
        (["fvd"], "video:x", {"video:x": ["fvd"]}),
        (["clip_score", "frechet"], "clip:x", {"clip:x": ["clip_score", "frechet"]}),
        (["fd_dinov2"], "hf:x", {"dinov2-l": ["fd_dinov2"]}),
        (["frechet", "frechet"], None, {"inception": ["frechet"]}),
    ],
)
def test_each_metric_gets_its_network(metrics, chosen, expected):
    assert plan(metrics, chosen, captions=False) == expected


ADM = Gaussian(np.zeros(2), np.eye(2))
IMAGENET = "VIRTUAL_imagenet256_labeled.npz"


def row(metric="fid", features="inception", num_samples=50_000, num_reference=None):
    return {"metric": metric, "features": features, "num_samples": num_samples,
            "num_reference": num_reference}  # fmt: skip


@pytest.mark.parametrize(
    ("one", "origin", "count", "is_like_papers"),
    [
        (row(), IMAGENET, None, True),
        (row("precision", num_reference=10_000), IMAGENET, None, True),
        (row("inception_score"), IMAGENET, None, True),
        (row(num_samples=49_999), IMAGENET, None, False),
        (row(features="run:a"), IMAGENET, None, False),
        (row("frechet", features="run:a"), IMAGENET, None, False),
        (row("recall", num_reference=9_000), IMAGENET, None, False),
        (row(), "own.npz", 50_000, False),
        (row("clip_score", features="clip"), IMAGENET, None, False),
    ],
)
def test_published_numbers_stand_only_beside_their_protocol(one, origin, count, is_like_papers):
    statistics = {"features": Gaussian(ADM.mean, ADM.covariance, count)}
    reference = Source(f"refs/{origin}", None, {}, statistics, "inception")
    assert (not differences(one, reference)) == is_like_papers
    published = published_rows([one], reference)
    assert bool(published) == is_like_papers
    if one["metric"] == "fid" and is_like_papers:
        assert published["Self-Flow, SiT-XL/2, 4 M steps"] == {"fid": 5.7}


def test_a_clip_score_needs_a_caption_for_each_sample(here):
    pytest.importorskip("transformers", reason="the extra 'metrics' is not installed")
    from tests.unit.test_feature_networks import write_clip

    (here / "clip").mkdir()
    write_clip(here / "clip")
    Path("captions.txt").write_text("a\n" * 39)
    how = {"features": "clip:clip", "metrics": ["clip_score"], "captions": "captions.txt"}
    with pytest.raises(UserError, match="has 40 samples, but there are 39 captions"):
        measure("samples.npz", **how)
    Path("samples.txt").write_text("a\n" * 40)
    measure("samples.npz", **how | {"captions": None})
    clip = load_features("clip:clip")
    image = clip(torch.from_numpy(pictures(0)))["features"].numpy()
    text = clip.captions(["a"]).numpy()[0]
    cosine = (image @ text) / np.linalg.norm(image, axis=1) / np.linalg.norm(text)
    assert values(result())["clip_score"] == pytest.approx(100 * cosine.mean(), rel=1e-5)
