"""The best head looked at closely: whose scores, which rows, what is said of them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.metrics import roc_curve

from classify.data.dataset import Dataset
from classify.data.preprocessing import Transform
from classify.data.samples import subsets
from classify.diagnosis.analysis import MISTAKES, analyse
from classify.diagnosis.projection import map_features
from classify.search import evaluate
from classify.search.evaluate import fit_batch, transformed
from classify.search.search import run
from classify.settings.config import TrainConfig
from classify.settings.head_spec import HeadSpec
from classify.stored.views import FoldData
from extract.core.config import TrunkSpec

STRONG, WEAK = HeadSpec("logistic", C=1.0), HeadSpec("logistic", C=1e-7)
SEVERAL = (WEAK, STRONG, HeadSpec("knn"), HeadSpec("lda"))


def dataset(count: int = 120, K: int = 3, width: int = 6, test_rows: int = 0) -> Dataset:
    generator = np.random.default_rng(0)
    y = np.arange(count) % K
    X = generator.normal(size=(count, width)).astype(np.float32)
    X[np.arange(count), y % width] += 2
    split = np.repeat([0, 1], [count * 2 // 3, count - count * 2 // 3]).astype(np.int8)
    split[count - test_rows :] = 2
    keys, names = [f"{row}.jpg" for row in range(count)], tuple("abcdefghij"[:K])
    return Dataset(X, y, keys, None, split, names, "mixed7", TrunkSpec(), "", "float32")


# Scores of the judging rows.


def test_with_one_split_the_scores_are_those_of_the_head() -> None:
    made = dataset(test_rows=10)
    result = run(made, TrainConfig(SEVERAL))
    assert result.head is not None
    assert result.scores is not None
    np.testing.assert_array_equal(result.validation_rows, np.arange(80, 110))
    np.testing.assert_array_equal(result.scores, result.head.predict_proba(made.X[80:110]))


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "macro_f1", "loss"])
def test_behind_folds_each_row_is_scored_by_a_head_that_did_not_see_it(metric: str) -> None:
    made = dataset()
    result = run(made, TrainConfig(SEVERAL, 3, metric=metric))
    assert result.scores is not None
    spec = result.best.spec
    wanted = np.empty((120, 3))
    for split in result.splits:
        transform = Transform(spec.transform or ())
        train, judging = split.train, split.validation
        rows = transformed(
            transform, FoldData(made.X[train], made.y[train], made.X[judging], made.y[judging])
        )
        head = fit_batch([spec], rows, transform)[0]
        wanted[split.validation] = head.predict_proba(made.X[split.validation])
    np.testing.assert_allclose(result.scores, wanted, atol=1e-6)
    answers = result.best.evaluation.answers
    np.testing.assert_array_equal(result.scores.argmax(axis=1), answers)


@pytest.mark.parametrize("folds", [None, 3])
def test_a_run_that_goes_on_has_the_same_scores(
    folds: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(dataset(), TrainConfig(SEVERAL, folds), tmp_path / "head")
    again = run(dataset(), TrainConfig(SEVERAL, folds), tmp_path / "head")
    monkeypatch.setattr(evaluate, "_KEEP_BYTES", 0)  # no room for the scores of several heads
    cramped = run(dataset(), TrainConfig(SEVERAL, folds))
    for other in (again, cramped):
        assert first.scores is not None
        assert other.scores is not None
        np.testing.assert_allclose(other.scores, first.scores, atol=1e-6)


# Fewer images.


def test_parts_hold_each_other_and_every_class() -> None:
    y = np.array([0] * 100 + [1] * 30 + [2])
    eighth, quarter, half = subsets(y, seed=0)
    assert set(eighth) < set(quarter) < set(half)
    assert [np.bincount(y[part]).tolist() for part in (eighth, quarter, half)] == [
        [12, 4, 1],
        [25, 8, 1],
        [50, 15, 1],
    ]
    assert [part.tolist() for part in subsets(y, seed=0)] == [
        part.tolist() for part in (eighth, quarter, half)
    ]
    assert subsets(y, seed=1)[0].tolist() != eighth.tolist()


def test_of_few_rows_no_part_comes_twice() -> None:
    assert [len(part) for part in subsets(np.array([0, 0, 0, 1, 1, 1]), 0)] == [4]
    assert [len(part) for part in subsets(np.arange(40) // 4, 0)] == [20]
    assert [len(part) for part in subsets(np.arange(12) // 6, 0)] == [4, 6]
    assert subsets(np.array([0, 1, 2]), 0) == []


@pytest.mark.parametrize("folds", [None, 3])
def test_more_images_are_better_and_all_of_them_are_the_head_itself(folds: int | None) -> None:
    made = dataset(count=600)
    result = run(made, TrainConfig((STRONG,), folds))
    sizes = analyse(made, result).fewer_images.sizes
    assert [size.rows for size in sizes] == sorted({size.rows for size in sizes})
    assert len(sizes) == 4
    assert sizes[-1].rows == len(result.splits[0].train)
    first = np.isin(result.validation_rows, result.splits[0].validation)
    right = result.best.evaluation.answers[first] == made.y[result.splits[0].validation]
    assert sizes[-1].score.value == pytest.approx(right.mean())
    values = [size.score.value or 0 for size in sizes]
    assert values[0] < values[-1]


def test_a_head_with_epochs_is_not_trained_again_on_fewer_images() -> None:
    made = dataset(count=600)
    result = run(made, TrainConfig((STRONG,)))
    slow = replace(result, entries=[result.best._replace(spec=HeadSpec("dense"))])
    found = analyse(made, slow)
    assert found.fewer_images.head == "logistic"
    assert found.fewer_images.sizes[-1].rows == len(result.splits[0].train)
    assert len(found.fewer_images.sizes) == 4


def test_a_size_that_cannot_be_trained_is_left_out() -> None:
    made = dataset(width=60)
    result = run(made, TrainConfig((replace(STRONG, transform=("pca=30",)),)))
    assert [size.rows for size in analyse(made, result).fewer_images.sizes] == [41, 80]


# The map.


def test_the_map_is_scikit_learns_pca() -> None:
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    X = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32) @ np.diag(range(1, 8))
    X[:, 1] += X[:, 0] * 3
    found = map_features(X.astype(np.float32), np.arange(50))[0]
    assert found.method == "PCA"
    pca = PCA(2)
    wanted = pca.fit_transform(StandardScaler().fit_transform(X))
    signs = np.sign((wanted * found.points).sum(axis=0))
    np.testing.assert_allclose(found.points * signs, wanted, atol=2e-3)
    assert found.explained == pytest.approx(pca.explained_variance_ratio_.tolist(), abs=1e-4)


def test_the_map_of_many_rows_and_of_feature_maps_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("classify.diagnosis.projection._TSNE_ROWS", 9999)
    X = np.random.default_rng(0).normal(size=(4000, 2, 2, 3)).astype(np.float32)
    (found,) = map_features(X, np.arange(4000))
    assert len(found.rows) == len(set(found.rows.tolist())) == 1000
    (pooled,) = map_features(X.mean(axis=(1, 2)), np.arange(4000))
    np.testing.assert_allclose(found.points, pooled.points, atol=1e-3)
    assert len(map_features(np.eye(9, 5000, dtype=np.float32), np.arange(9))) == 1


def test_t_sne_keeps_neighbours_together() -> None:
    group = np.arange(90) % 3
    X = np.random.default_rng(0).normal(size=(90, 8)).astype(np.float32)
    X[np.arange(90), group] += 20
    found, again = (map_features(X, np.arange(90))[1] for _ in range(2))
    assert found.method == "t-SNE"
    np.testing.assert_array_equal(found.points, again.points)
    apart = np.linalg.norm(found.points[:, None] - found.points, axis=2)
    np.fill_diagonal(apart, np.inf)
    np.testing.assert_array_equal(group[apart.argmin(axis=1)], group)


def test_t_sne_shows_more_of_the_neighbours_than_pca_with_any_number_of_threads() -> None:
    from sklearn.manifold import trustworthiness
    from threadpoolctl import threadpool_limits

    X = np.random.default_rng(0).normal(size=(300, 20)).astype(np.float32)
    X += 4 * np.eye(20, dtype=np.float32)[np.arange(300) % 20]
    plain, placed = map_features(X, np.arange(300))
    trust = [trustworthiness(X, found.points, n_neighbors=10) for found in (plain, placed)]
    assert trust[1] > 0.85 > trust[0] + 0.1
    for threads in (1, 4):
        with threadpool_limits(threads):
            again = map_features(X, np.arange(300))[1]
        np.testing.assert_array_equal(placed.points, again.points)


@pytest.mark.parametrize("kind", ["constant", "copies", "one feature varies"])
def test_degenerate_features_have_finite_maps(kind: str) -> None:
    X = np.ones((40, 6), np.float32)
    if kind == "copies":
        X = np.repeat(np.random.default_rng(0).normal(size=(2, 6)), 20, axis=0).astype(np.float32)
    elif kind == "one feature varies":
        X[:, 2] = np.arange(40)
    for found in map_features(X, np.arange(40)):
        assert found.points.shape == (40, 2)
        assert np.isfinite(found.points).all()


@pytest.mark.parametrize("shape", [(2, 5), (9, 1)])
def test_what_has_no_two_dimensions_has_no_map(shape: tuple[int, int]) -> None:
    assert map_features(np.ones(shape, np.float32), np.arange(shape[0])) == []


# The whole of it.


def test_the_analysis_agrees_with_the_leaderboard_and_leaves_the_test_alone() -> None:
    made = dataset(test_rows=15)
    garbled = replace(made, X=np.concatenate([made.X[:105], made.X[105:] * -50]))
    found, other = (analyse(d, run(d, TrainConfig((STRONG,)))) for d in (made, garbled))
    assert found.to_dict(made.keys) == other.to_dict(made.keys)
    scores = run(made, TrainConfig((STRONG,))).best.scores
    assert found.confusion.trace() / found.confusion.sum() == pytest.approx(scores["accuracy"])
    recalls = [of.recall.value for of in found.classes]
    assert np.mean([r for r in recalls if r is not None]) == pytest.approx(
        scores["balanced_accuracy"]
    )
    f1 = [of.f1.value for of in found.classes]
    assert np.mean([f for f in f1 if f is not None]) == pytest.approx(scores["macro_f1"])


def test_mistakes_are_the_wrong_rows_most_confident_first() -> None:
    made = dataset(count=2700)
    made.X[:] = np.random.default_rng(1).normal(size=made.X.shape)
    found = analyse(made, run(made, TrainConfig((STRONG,))))
    assert len(found.mistakes) == MISTAKES < len(found.wrong_rows)
    scores = [mistake.score for mistake in found.mistakes]
    assert scores == sorted(scores, reverse=True)
    for mistake in found.mistakes:
        assert mistake.row in found.wrong_rows
        assert mistake.key == made.keys[mistake.row]
        assert mistake.truth == made.class_names[made.y[mistake.row]] != mistake.answer


def test_images_of_a_group_say_less_and_few_groups_have_no_interval() -> None:
    made = dataset(count=360)
    grouped = replace(made, groups=[f"{row // 6}" for row in range(360)])
    grouped.split[:] = np.repeat([0, 1], [180, 180])
    alone = replace(grouped, groups=None)
    wide, narrow = (analyse(d, run(d, TrainConfig((STRONG,)))) for d in (grouped, alone))
    for group, single in zip(wide.classes, narrow.classes, strict=True):
        assert group.recall.value == single.recall.value
        assert group.recall.low is not None
        assert single.recall.low is not None
        assert group.recall.low < single.recall.low
    few = replace(made, groups=[f"{row // 30}" for row in range(360)], split=grouped.split)
    assert {c.recall.low for c in analyse(few, run(few, TrainConfig((STRONG,)))).classes} == {None}


@pytest.mark.parametrize(("K", "folds"), [(2, None), (3, None), (2, 3)])
def test_coverage_and_sensitivities_are_those_of_the_validation_images(
    K: int, folds: int | None
) -> None:
    made = dataset(K=K, test_rows=10)
    result = run(made, TrainConfig(SEVERAL, folds))
    described = analyse(made, result).to_dict(made.keys)
    assert result.scores is not None
    rows, scores, positive = result.validation_rows, result.scores, made.positive_label
    first, *_, last = described["coverage"]
    assert (first["images"], first["share"]) == (len(rows), 1.0)
    assert first["accuracy"]["value"] == pytest.approx(result.accuracy, abs=1e-6)
    assert last["images"] == (scores.max(axis=1) >= 0.99).sum()
    curve = described["coverage_curve"]
    assert (curve["x"][-1], curve["y"][-1]) == (1.0, first["accuracy"]["value"])
    assert bool(described["sensitivities"]) == (K == 2)
    for point in described["sensitivities"]:
        false, true, _ = roc_curve(made.y[rows] == positive, scores[:, positive])
        best = true[false <= 1 - point["specificity"] + 1e-9].max()
        assert point["sensitivity"]["value"] == pytest.approx(best, abs=1e-6)


def test_label_issues_leave_the_test_images_alone() -> None:
    made = dataset(test_rows=10)
    issues = analyse(made, run(made, TrainConfig(SEVERAL))).label_issues
    assert issues.scored == 110
    assert all(issue.row < 110 for issue in issues.issues)


def test_it_is_plain_json_and_the_same_each_time() -> None:
    made = dataset()
    texts = [
        json.dumps(
            analyse(made, run(made, TrainConfig(SEVERAL))).to_dict(made.keys), allow_nan=False
        )
        for _ in range(2)
    ]
    assert texts[0] == texts[1]
    found = json.loads(texts[0])
    assert found["classes"][0]["recall"].keys() == {"value", "low", "high"}
    assert found["mistakes"]["most_confident"][0].keys() == {"key", "truth", "answer", "score"}
    assert len(found["maps"][0]["keys"]) == len(found["maps"][0]["x"]) == 120


def test_the_principal_components_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    X = (random.normal(size=(25, 40)) @ random.normal(size=(40, 40))).astype(np.float32)
    (found,) = map_features(X, np.arange(25))
    scaled = (X - X.mean(axis=0)) / X.std(axis=0)
    wanted = PCA(2, svd_solver="covariance_eigh")
    np.testing.assert_allclose(found.points, wanted.fit_transform(scaled), atol=2e-3)
    assert found.explained == pytest.approx(wanted.explained_variance_ratio_, abs=1e-4)
