"""Many heads in one model: each is what plain Keras makes of it, whoever else is in the stack."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from classify.heads.keras_head import DenseHead, build_model, fit_heads
from classify.heads.parallel_fit import RUNGS, Pass
from classify.heads.parallel_heads import StackedHeads, build_stack
from classify.settings.head_spec import HeadSpec, groups_of
from classify.stored.views import FoldData
from extract.trunks.backend import fetch, load_keras
from tests.test_heads_contract import rows_of

SMALL: dict[str, Any] = {"units": (16,), "epochs": 3, "batch_size": 20}
RATES = (0.003, 0.01, 0.02)
# Settings that all heads of a stack have here; rate, seed and the dropout of the last differ.
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"dropout": 0.0},
    "dropout": {"dropout": 0.4},
    "penalty": {"l2": 0.01, "label_smoothing": 0.1, "class_weight": "balanced"},
    "deep": {"units": (16, 8), "activation": "gelu", "optimizer": "adam"},
    "normalised": {"batch_normalisation": True, "optimizer": "sgd", "momentum": 0.9},
    "linear": {"head": "linear", "units": None},
}


def specs_of(kind: str, **settings: Any) -> list[HeadSpec]:
    given = {**SMALL, **KINDS[kind], **settings}
    return [
        HeadSpec(**given, seed=seed, learning_rate=rate)
        for seed, rate in zip((5, 6, 6), RATES, strict=True)
    ]


@functools.cache
def rows(classes: int = 3, count: int = 90) -> FoldData:
    return FoldData(*rows_of(classes, (8,), count), *rows_of(classes, (8,), 30, seed=1))


def scores(head: DenseHead, classes: int = 3) -> np.ndarray:
    return np.asarray(head.predict_proba(rows(classes)[2]))


# The kinds left to the slow run are held below, in a stack of three, to what plain Keras makes.
@pytest.mark.parametrize(
    ("kind", "classes"),
    [
        ("dropout", 3),
        ("normalised", 2),
        *(
            pytest.param(kind, classes, marks=pytest.mark.slow)
            for kind in KINDS
            for classes in (2, 3)
        ),
    ],
)
def test_a_head_is_the_same_alone_and_in_a_stack(kind: str, classes: int) -> None:
    specs = specs_of(kind)
    assert groups_of(specs) == [[0, 1, 2]]
    stacked = fit_heads(specs, rows(classes))
    alone = DenseHead(specs[2]).fit(rows(classes))
    np.testing.assert_allclose(scores(stacked[2], classes), scores(alone, classes), atol=1e-4)
    for curve, values in alone.history.items():
        assert stacked[2].history[curve] == pytest.approx(values, abs=1e-4), curve
    assert not np.allclose(scores(stacked[1], classes), scores(alone, classes), atol=1e-3)


def plain_keras(spec: HeadSpec, first: list[np.ndarray], classes: int) -> tuple[Any, Any]:
    """The head as a Keras user writes it, from the same first weights on the same batches."""
    keras = load_keras()
    X, y, X_validation, *_ = rows(classes, count=80)
    model = build_model(spec, X.shape[1:], classes)
    model.set_weights(first)
    if spec.l2:
        for layer in model.layers:
            if hasattr(layer, "kernel"):  # the variable: the layer has handed its own on
                layer.kernel.regularizer = keras.regularizers.L2(spec.l2)
    if classes == 2:
        loss = keras.losses.BinaryCrossentropy(label_smoothing=spec.label_smoothing)
        truth: Any = np.float32
    else:
        loss = keras.losses.CategoricalCrossentropy(label_smoothing=spec.label_smoothing)
        truth = functools.partial(keras.utils.to_categorical, num_classes=classes)
    weights = len(y) / (classes * np.bincount(y)) if spec.class_weight else np.ones(classes)
    kind = {"rmsprop": "RMSprop", "sgd": "SGD", "adam": "Adam"}[spec.optimizer or ""]
    momentum = {} if spec.momentum is None else {"momentum": spec.momentum}
    optimizer = getattr(keras.optimizers, kind)(learning_rate=spec.learning_rate, **momentum)
    model.compile(optimizer=optimizer, loss=loss, metrics=["accuracy"])
    for epoch in range(spec.epochs or 0):
        order = np.random.default_rng([0, epoch]).permutation(len(X))
        model.fit(
            X[order],
            truth(y[order]),
            sample_weight=weights[y[order]],
            batch_size=spec.batch_size,
            shuffle=False,
            verbose=0,
        )
    return model, DenseHead(spec, model).predict_proba(X_validation)


@pytest.mark.parametrize(
    ("kind", "classes"),
    [("plain", 3), ("penalty", 2), ("penalty", 3), ("deep", 2), ("normalised", 3), ("linear", 2)],
)
def test_a_head_is_what_plain_keras_makes_of_it(kind: str, classes: int) -> None:
    specs = specs_of(kind, **({} if kind == "linear" else {"dropout": 0.0}))
    given = rows(classes, count=80)
    first = build_stack(specs, given).head_weights([1])[0]
    head = fit_heads(specs, given)[1]
    _, wanted = plain_keras(specs[1], first, classes)
    np.testing.assert_allclose(head.predict_proba(given.X_validation), wanted, atol=1e-4)


def test_heads_of_different_shapes_keep_their_places() -> None:
    settings: list[dict[str, Any]] = [
        {"units": (4,)},
        {"units": (4,), "dropout": 0.5, "l2": 0.1, "seed": 3, "epochs": 2, "patience": 1},
        {"units": (4,), "optimizer": "adam"},
        {"units": (4,), "batch_size": 30},
        {"units": (4,), "label_smoothing": 0.1, "class_weight": "balanced"},
        {"head": "linear", "units": None},
    ]
    specs = [HeadSpec(**{**SMALL, "epochs": 1, **given}) for given in settings]
    assert groups_of(specs) == [[0, 1, 4], [2], [3], [5]]
    heads = fit_heads(specs, rows())
    assert [head.spec for head in heads] == specs
    assert [len(head.history["loss"]) for head in heads] == [1, 2, 1, 1, 1, 1]


@pytest.mark.parametrize("batches", [1, 2, 100])
@pytest.mark.parametrize("count", [7, 40, 45])
def test_an_epoch_holds_each_row_once_and_fills_its_last_batch(
    count: int, batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("classify.heads.parallel_fit.BLOCK_VALUES", 20 * batches)
    X = np.arange(count, dtype=np.float32)[:, None]
    epoch = Pass(build_stack(specs_of("linear"), rows()), X, np.arange(count), 20, training=True)
    assert epoch.batches <= batches
    orders = []
    for seed in (0, 1, 0):
        blocks = list(epoch.blocks([9, seed]))
        assert {x.shape for x, *_ in blocks} == {(epoch.batches, 20, 1)}
        assert sum(used for *_, used in blocks) == -(-count // 20)
        x = np.concatenate([x[:used].ravel() for x, _, used in blocks])
        y = np.concatenate([y[:used].ravel() for _, y, used in blocks])
        assert all((y[used:] == -1).all() for _, y, used in blocks)
        order = np.random.default_rng([9, seed]).permutation(count)
        np.testing.assert_array_equal(x, order[np.arange(len(x)) % count])
        np.testing.assert_array_equal(y, [*order, *[-1] * (len(x) - count)])
        orders.append(y.tolist())
    assert orders[0] != orders[1]
    assert orders[0] == orders[2]


def test_every_epoch_trains_in_its_own_order(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    blocks = Pass.blocks

    def recorded(self: Any, seed: Any = None) -> Any:
        for x, y, used in blocks(self, seed):
            if seed is not None:
                seen.append(x.reshape(-1, x.shape[-1])[:90])
            yield x, y, used

    monkeypatch.setattr(Pass, "blocks", recorded)
    fit_heads(specs_of("linear"), rows(), order_seed=4)
    orders = [np.random.default_rng([4, epoch]).permutation(90) for epoch in range(3)]
    np.testing.assert_array_equal(seen, [rows().X[order] for order in orders])


@pytest.mark.parametrize("kind", ["dropout", "normalised"])
def test_blocks_change_nothing_and_are_compiled_once(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[bool] = []
    call = StackedHeads.call

    def counted(self: Any, x: Any, training: bool = False) -> Any:
        called.append(training)
        return call(self, x, training)

    monkeypatch.setattr(StackedHeads, "call", counted)
    fit_heads(specs_of(kind, epochs=1), rows())
    traced = len(called)
    whole = fit_heads(specs_of(kind), rows())
    assert len(called) == 2 * traced
    # Two batches a block, and one in the last.
    monkeypatch.setattr("classify.heads.parallel_fit.BLOCK_VALUES", 2 * 20 * 8)
    parts = fit_heads(specs_of(kind), rows())
    assert len(called) == 3 * traced
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(scores(one), scores(other), atol=1e-6)


@pytest.mark.parametrize("kind", ["normalised", "penalty"])
def test_the_model_of_another_fold_or_transform_is_used_again_and_begins_anew(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("classify.heads.parallel_fit.WORTH_REBUILDING", 0)
    short, *specs = specs_of(kind, dropout=0.3)
    specs = [dataclasses.replace(short, epochs=1), *specs]
    folds = [rows(3, 90), FoldData(*rows_of(3, (8,), 84, seed=2), *rows_of(3, (8,), 27, seed=3))]
    folds[1].y[::4] = 0  # other class weights
    moved = [dataclasses.replace(spec, transform=("l2",)) for spec in specs]
    alone = [fit_heads(specs, fold) for fold in folds]
    built: list[int] = []

    def counted(specs: list[HeadSpec], *given: Any) -> StackedHeads:
        built.append(len(specs))
        return build_stack(specs, *given)

    monkeypatch.setattr("classify.heads.parallel_fit.build_stack", counted)
    stacks: dict[Any, Any] = {}
    pairs = zip((specs, moved), folds, strict=True)
    together = [fit_heads(heads, fold, stacks=stacks) for heads, fold in pairs]
    assert built == [3, 2, 2]
    for fold, others in zip(together, alone, strict=True):
        for head, other in zip(fold, others, strict=True):
            assert head.history == other.history
            np.testing.assert_array_equal(scores(head), scores(other))


def test_a_block_is_small_enough_to_stop_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = build_stack(specs_of("plain"), rows())
    for work, batches in ((0, 1), (45 * stack.size, 2), (85 * stack.size, 3), (10**12, 5)):
        monkeypatch.setattr("classify.heads.parallel_fit.BLOCK_WORK", work)
        assert Pass(stack, rows().X, rows().y, 20, training=True).batches == batches


def test_the_order_of_the_rows_is_one_seed_and_the_head_another() -> None:
    specs = specs_of("dropout", epochs=1)
    first, same, other = (
        [scores(head) for head in fit_heads(specs, rows(), order_seed=seed)] for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, same)
    assert not np.allclose(first, other, atol=1e-4)


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.5, 0.9])
def test_dropout_drops_its_share_each_time_anew(rate: float) -> None:
    specs = [
        HeadSpec(units=(256,), batch_size=64, dropout=d, seed=seed)
        for d, seed in ((rate, 1), (rate, 2), (0.5, 3))
    ]
    stack = build_stack(specs, rows())
    ones = load_keras().ops.ones((64, 3, 256))
    first, second = (fetch(stack.drop(ones, 0)) for _ in range(2))
    kept = first > 0
    np.testing.assert_allclose(first[kept[:, 0].nonzero()[0][0], 0].max(), 1 / (1 - rate), 1e-6)
    # 16,384 draws: five standard deviations.
    share = 5 * np.sqrt(rate * (1 - rate) / kept[:, 0].size)
    for k in (0, 1):
        assert kept[:, k].mean() == pytest.approx(1 - rate, abs=share + 1e-9)
    if rate:
        # Independent: of another head with another seed, and of the same head a step later.
        for other in (kept[:, 1], second[:, 0] > 0):
            assert np.corrcoef(kept[:, 0].ravel(), other.ravel())[0, 1] == pytest.approx(
                0, abs=0.04
            )


def test_patience_ends_one_head_and_not_the_others() -> None:
    X, y, *_ = rows(2)
    # The validation labels are wrong, so a head that learns quickly gets worse from the start.
    wrong = FoldData(X, y, X, 1 - y)
    settings: dict[str, Any] = {"units": (16,), "batch_size": 20, "dropout": 0.0}
    specs = [
        HeadSpec(**settings, learning_rate=0.03, epochs=8, patience=2),
        HeadSpec(**settings, learning_rate=0.01, epochs=8),
        HeadSpec(**settings, learning_rate=0.03, epochs=5),
    ]
    first, second, third = fit_heads(specs, wrong)
    losses = first.history["val_loss"]
    assert len(losses) == int(np.argmin(losses)) + 1 + 2 < 8
    assert (len(second.history["loss"]), len(third.history["loss"])) == (8, 5)
    for head, loss in ((first, min(losses)), (third, third.history["val_loss"][-1])):
        found = -np.log(head.predict_proba(X)[np.arange(len(y)), 1 - y]).mean()
        assert found == pytest.approx(loss, rel=1e-3)


@pytest.mark.parametrize(
    ("kind", "worth"), [("dropout", 0), ("deep", 0), ("normalised", 0), ("dropout", 1e30)]
)
def test_going_on_in_a_smaller_stack_changes_nothing(
    kind: str, worth: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("classify.heads.parallel_fit.WORTH_REBUILDING", worth)
    built: list[int] = []
    build = build_stack

    def counted(specs: list[HeadSpec], *given: Any) -> Any:
        built.append(len(specs))
        return build(specs, *given)

    monkeypatch.setattr("classify.heads.parallel_fit.build_stack", counted)
    short, *long = specs_of(kind, epochs=4)
    ends = HeadSpec(**{**SMALL, **KINDS[kind], "epochs": 2, "seed": 9})
    heads = fit_heads([ends, short, *long], rows())
    assert built == ([4, 3] if worth == 0 else [4])
    np.testing.assert_allclose(scores(heads[3]), scores(DenseHead(long[1]).fit(rows())), atol=1e-4)
    assert [len(head.history["loss"]) for head in heads] == [2, 4, 4, 4]


def test_halving_ends_the_worse_half_at_each_rung() -> None:
    rates = np.geomspace(1e-5, 3e-2, 8)
    specs = [HeadSpec(**{**SMALL, "epochs": 16}, learning_rate=float(rate)) for rate in rates]
    heads = fit_heads(specs, rows(), halving=True)
    # Eight, four after 2 epochs, two after 4, one after 8; on these rows faster is better.
    assert [len(head.history["loss"]) for head in heads] == [2, 2, 2, 2, 4, 4, 8, 16]
    assert RUNGS == (0.125, 0.25, 0.5)
    full = fit_heads(specs, rows())
    np.testing.assert_allclose(scores(heads[7]), scores(full[7]), atol=1e-4)


def test_a_head_whose_loss_is_no_number_does_not_harm_the_others() -> None:
    settings: dict[str, Any] = {**SMALL, "optimizer": "sgd", "batch_normalisation": True}
    good, bad = (HeadSpec(**settings, learning_rate=rate) for rate in (0.01, 1e30))
    heads = fit_heads([bad, good], rows())
    assert heads[0].failed is not None
    assert "loss is nan in epoch" in heads[0].failed
    assert all(np.isfinite(values).all() for values in heads[0].history.values())
    assert heads[1].failed is None
    np.testing.assert_allclose(scores(heads[1]), scores(DenseHead(good).fit(rows())), atol=1e-4)
    assert all(head.failed for head in fit_heads([bad, bad], rows()))


@pytest.mark.parametrize("kind", KINDS)
def test_the_layers_of_a_head_are_plain_keras(kind: str) -> None:
    keras = load_keras()
    spec = specs_of(kind)[0]
    model = build_model(spec, (8,), 3)
    assert type(model) is keras.Sequential
    wanted = {
        "plain": ["Dense", "Dropout", "Dense"],
        "deep": ["Dense", "Dropout", "Dense", "Dropout", "Dense"],
        "normalised": ["Dense", "BatchNormalization", "Activation", "Dropout", "Dense"],
        "linear": ["Dense"],
    }
    assert [type(layer).__name__ for layer in model.layers] == wanted.get(kind, wanted["plain"])
    # Its weights are a stack's, in the same order.
    weights = build_stack([spec], rows()).head_weights([0])[0]
    assert [w.shape for w in weights] == [tuple(w.shape) for w in model.weights]


_OTHER_BACKEND = """
import numpy as np, keras
from tests.test_heads_parallel import KINDS, rows, scores, specs_of
from classify.heads.keras_head import DenseHead, fit_heads
for kind in KINDS:
    specs = specs_of(kind)
    heads = fit_heads(specs, rows())
    alone = scores(DenseHead(specs[2]).fit(rows()))
    np.testing.assert_allclose(scores(heads[2]), alone, atol=1e-4)
    again = fit_heads(specs, rows())
    assert all(np.array_equal(scores(a), scores(b)) for a, b in zip(heads, again))
print(keras.backend.backend(), scores(fit_heads(specs_of("plain"), rows())[0]).tolist(), sep="|")
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_train_the_same_heads(backend: str) -> None:
    pytest.importorskip(backend)
    done = subprocess.run(
        [sys.executable, "-c", _OTHER_BACKEND],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=False,
    )
    name, _, found = done.stdout.strip().partition("|")
    assert name == backend, done.stderr
    # First weights and order are NumPy's: without dropout the backends agree.
    here = scores(fit_heads(specs_of("plain"), rows())[0])
    np.testing.assert_allclose(np.array(json.loads(found)), here, atol=1e-3)


def test_limits_of_keras_end_no_training_early() -> None:
    config = load_keras().config
    try:
        config.set_max_epochs(2)
        config.set_max_steps_per_epoch(1)
        limited = fit_heads(specs_of("linear", epochs=4), rows())
        # The limits stay for models that are not headstart's.
        assert (config.max_epochs(), config.max_steps_per_epoch()) == (2, 1)
    finally:
        config.set_max_epochs(None)
        config.set_max_steps_per_epoch(None)
    for head, other in zip(limited, fit_heads(specs_of("linear", epochs=4), rows()), strict=True):
        assert head.history == other.history
