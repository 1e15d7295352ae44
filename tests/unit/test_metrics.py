"""Metrics of generation on features: their formulas written plainly, and bad input."""

import numpy as np
import pytest
import torch
from scipy import linalg

from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.metrics.clip_score import ClipScore
from selfflow_robotics.evaluation.metrics.frechet import Gaussian, Moments, frechet_distance
from selfflow_robotics.evaluation.metrics.inception_score import InceptionScore
from selfflow_robotics.evaluation.metrics.precision_recall import precision_recall


def draw(seed, *shape, scale=1.0, shift=0.0):
    """float32 numbers with correlated columns."""
    rng = np.random.Generator(np.random.PCG64(seed))
    mix = rng.normal(size=(shape[-1], shape[-1]))
    return (shift + scale * rng.normal(size=shape) @ mix).astype(np.float32)


def fitted(features, batch=7):
    moments = Moments("features")
    for start in range(0, len(features), batch):
        moments.add(features[start : start + batch])
    return moments


def gaussian(features):
    return fitted(features).gaussian()


def plain_frechet(a, b):
    """As in ADM's evaluator and TTUR."""
    (m1, s1), (m2, s2) = (
        (x.astype(np.float64).mean(0), np.cov(x.astype(np.float64), rowvar=False)) for x in (a, b)
    )
    root = linalg.sqrtm(s1 @ s2)
    return ((m1 - m2) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * np.trace(root).real


def test_moments_of_batches_are_those_of_the_whole():
    features = draw(0, 100, 6, shift=1e4).astype(np.float64)
    whole = gaussian(features)
    np.testing.assert_allclose(whole.mean, features.mean(0), rtol=1e-12)
    np.testing.assert_allclose(whole.covariance, np.cov(features, rowvar=False), rtol=1e-9)
    halves = fitted(features[:37]).merged(fitted(features[37:]))
    assert halves.count == whole.count == 100
    np.testing.assert_allclose(halves.gaussian().covariance, whole.covariance, rtol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_the_frechet_distance_is_that_of_the_usual_root(seed):
    real, generated = draw(seed, 200, 24), draw(seed + 10, 150, 24, scale=1.3, shift=0.2)
    found = frechet_distance(gaussian(real), gaussian(generated))
    assert found == pytest.approx(plain_frechet(real, generated), rel=1e-6)
    assert found == pytest.approx(frechet_distance(gaussian(generated), gaussian(real)), rel=1e-9)


def test_equal_sets_have_no_distance_and_a_shift_has_its_square():
    features = draw(0, 50, 40)  # a covariance with eigenvalues close to zero
    scale = float(np.trace(gaussian(features).covariance))
    assert frechet_distance(gaussian(features), gaussian(features)) <= 1e-12 * scale
    moved = gaussian(features.astype(np.float64) + 0.5)
    assert frechet_distance(gaussian(features), moved) == pytest.approx(40 * 0.25, rel=1e-9)


def test_singular_covariances_need_no_offset():
    """Two rank-3 Gaussians in orthogonal planes: the shared root is zero."""
    axes = np.eye(6)
    a = Gaussian(np.zeros(6), np.diag(axes[:3].sum(0)))
    b = Gaussian(np.zeros(6), np.diag(4 * axes[3:].sum(0)))
    assert frechet_distance(a, b) == pytest.approx(3 + 12, abs=1e-12)
    assert frechet_distance(a, a) == 0


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((1, 2)), "a covariance needs 2 samples, got 1"),
        (np.zeros((4, 4)), "4 samples are too few for 4 features"),
        (np.full((9, 2), np.nan), "not finite"),
        (np.full((9, 2), np.inf), "not finite"),
    ],
)
def test_features_without_a_covariance_are_refused(features, message):
    with pytest.raises(UserError, match=message):
        gaussian(features)


def test_few_samples_are_measured_if_asked():
    few = fitted(draw(0, 4, 4)).gaussian(few=True)
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-9)


def test_unequal_widths_are_refused():
    with pytest.raises(UserError, match="features of 3 and of 4 numbers"):
        frechet_distance(gaussian(draw(0, 9, 3)), gaussian(draw(0, 9, 4)))
    with pytest.raises(UserError, match="features of 3 and of 4 numbers"):
        precision_recall(draw(0, 9, 3), draw(0, 9, 4))
    moments = fitted(draw(0, 9, 3))
    with pytest.raises(UserError, match="features of 4 numbers after features of 3"):
        moments.add(draw(0, 9, 4))


@pytest.mark.parametrize(
    "matrix", [np.diag([1.0, -1.0]), np.array([[1.0, 0.5], [0.0, 1.0]]), np.diag([1.0, np.nan])]
)
def test_what_is_no_covariance_is_refused(matrix):
    with pytest.raises(UserError, match="covariance is not"):
        frechet_distance(Gaussian(np.zeros(2), matrix), Gaussian(np.zeros(2), np.eye(2)))


def test_covariances_in_float32_are_accepted():
    """Their smallest eigenvalues may be negative."""
    features = draw(3, 60, 50)
    exact = gaussian(features)
    rounded = Gaussian(exact.mean, exact.covariance.astype(np.float32).astype(np.float64))
    scale = float(np.trace(exact.covariance))
    assert frechet_distance(exact, rounded) <= 1e-5 * scale


def test_the_inception_score_is_adms():
    """Parts in order, the last one smaller; no part at all is an error."""
    logits = draw(1, 23, 5, scale=2)
    score = InceptionScore("samples", split_size=10)
    for start in (0, 4, 15):
        score.add(logits[start : {0: 4, 4: 15, 15: 23}[start]])
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(1, keepdims=True)
    expected = [
        np.exp((part * (np.log(part) - np.log(part.mean(0)))).sum(1).mean())
        for part in (p[:10], p[10:20], p[20:])
    ]
    assert score.scores() == pytest.approx(expected, rel=1e-9)
    assert score.value() == pytest.approx(np.mean(expected), rel=1e-9)
    with pytest.raises(UserError, match="needs samples"):
        InceptionScore("samples").value()
    with pytest.raises(UserError, match="not finite"):
        score.add(np.full((1, 5), np.nan))


def plain_precision_recall(real, generated, k):
    def radius(features):
        distances = np.linalg.norm(features[:, None] - features[None], axis=2)
        return np.sort(distances, axis=1)[:, k]  # the nearest is the feature itself

    cross = np.linalg.norm(generated[:, None] - real[None], axis=2)
    precise = (cross <= radius(real)).any(1).mean()
    return precise, (cross <= radius(generated)[:, None]).any(0).mean()


@pytest.mark.parametrize(("k", "shift"), [(3, 0.0), (3, 1.0), (1, 0.5)])
def test_precision_and_recall_are_the_plain_ones(k, shift, monkeypatch):
    monkeypatch.setattr(
        "selfflow_robotics.evaluation.metrics.precision_recall._MOST_DISTANCES", 500
    )
    real, generated = draw(5, 90, 4), draw(6, 70, 4, shift=shift)
    precision, recall = precision_recall(real, generated, k)
    expected = plain_precision_recall(real.astype(np.float64), generated.astype(np.float64), k)
    assert (precision.value, recall.value) == pytest.approx(expected)
    assert 0 < precision.value < 1
    assert (precision.count, recall.count) == (70, 90)
    assert precision.interval[0] < precision.value < precision.interval[1]


def test_equal_sets_have_all_precision_and_distant_ones_none():
    features = draw(7, 40, 5, shift=1e3)
    assert [share.value for share in precision_recall(features, features)] == [1, 1]
    assert [share.value for share in precision_recall(features, features + 1e3)] == [0, 0]


@pytest.mark.parametrize(("real", "generated"), [((3, 2), (9, 2)), ((9, 2), (3, 2))])
def test_sets_without_a_third_neighbour_are_refused(real, generated):
    with pytest.raises(UserError, match="more than 3 images"):
        precision_recall(draw(0, *real), draw(0, *generated))


def test_features_that_are_not_finite_have_no_manifold():
    with pytest.raises(UserError, match="samples are not finite"):
        precision_recall(draw(0, 9, 2), np.full((9, 2), np.inf))


def test_the_clip_score_is_a_mean_cosine():
    images, texts = draw(8, 12, 6), draw(9, 12, 6)
    score = ClipScore("samples")
    score.add(images[:5], texts[:5])
    score.add(images[5:], texts[5:])
    cosines = 100 * torch.cosine_similarity(*map(torch.from_numpy, (images, texts))).double()
    assert score.value() == pytest.approx(cosines.mean().item(), rel=1e-6)
    assert score.standard_error() == pytest.approx(
        cosines.std(correction=0).item() / 12**0.5, rel=1e-5
    )
    with pytest.raises(UserError, match="zero or not finite"):
        score.add(np.zeros((1, 6)), np.ones((1, 6)))
    with pytest.raises(UserError, match="needs samples"):
        ClipScore("samples").value()


def torch_fidelity():
    """Skip the test where it is not installed, or its torchvision is for another torch."""
    try:
        import torch_fidelity
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torch-fidelity (the extra 'metrics') does not import: {error}")
    return torch_fidelity


def test_torch_fidelity_finds_the_same_numbers():
    torch_fidelity()
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_prc import calculate_precision_recall_part

    real, generated = draw(20, 300, 16), draw(21, 200, 16, shift=0.3)
    tensors = [torch.from_numpy(features).double() for features in (real, generated)]
    theirs = fid_statistics_to_metric(*map(fid_features_to_statistics, tensors), verbose=False)
    ours = frechet_distance(gaussian(real), gaussian(generated))
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)
    score = InceptionScore("samples", split_size=20)
    score.add(generated)
    theirs = isc_features_to_metric(tensors[1], splits=10, shuffle=False)
    assert score.value() == pytest.approx(theirs["inception_score_mean"], rel=1e-6)
    shares = precision_recall(real, generated)
    theirs = calculate_precision_recall_part(tensors[1], tensors[0])
    assert [share.value for share in shares] == pytest.approx(theirs, abs=1e-6)
