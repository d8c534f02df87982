"""Fine-tuning from cached maps: what it computes, keeps, says and refuses."""

import json
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from classify.cli import main as train_head
from classify.data.dataset import Dataset, load_dataset
from classify.data.splits import split_rows
from classify.finetune.finetune import pool, run
from classify.finetune.joint_model import MapBatches, join, train_together
from classify.heads.keras_head import DenseHead
from classify.inference.bundle import load_head
from classify.predict_cli import main as predict_images
from classify.scores.metrics import measure
from classify.scores.words import percent
from classify.search.search import Stopped
from classify.settings.config import FinetuneConfig, TrainConfig
from classify.settings.head_spec import HeadSpec
from classify.stored.views import FoldData
from extract.core.config import TrunkSpec
from extract.core.errors import HeadError, SettingError
from extract.images.item import Item, read_item
from extract.pipeline.run import run_extraction as extract_features
from extract.pixels.decode import decode
from extract.sources.listing import list_source
from extract.trunks.backend import load_keras
from extract.trunks.trunk import name_layers
from extract.trunks.upper_blocks import build_upper_blocks
from extract.trunks.weights import load_application

ROOT = Path(__file__).resolve().parents[1]

CUT: dict[str, Any] = {
    "trunk": "mobilenet",
    "weights": "none",
    "layer": ("conv_pw_12_relu",),
    "pooling": "none",
    "image_size": (96, 96),
}
HEAD = HeadSpec("dense", units=(8,), dropout=0.0, epochs=3, batch_size=8, learning_rate=1e-3)
QUICK = ["--units", "8", "--epochs", "3", "--batch-size", "8", "--finetune", "-q"]


def paint(root: Path, classes: int, count: int = 8) -> Path:
    """Make images whose classes differ in colour, in three splits."""
    generator = np.random.default_rng(0)
    for split in ("train", "validation", "test"):
        for label in range(classes):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 120, (32, 32, 3), dtype=np.uint8)
                pixels[..., label] += 60
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Maps of two and of three classes, by the number of classes."""
    made = {}
    for classes in (2, 3):
        folder = tmp_path_factory.mktemp(f"of{classes}")
        made[classes] = folder / "maps.h5"
        images = paint(folder / "images", classes)
        # Views, where there are any, take no part.
        extract_features(images, made[classes], **CUT, views=classes - 2)
    return made


def pixels_of(dataset: Dataset, source: Path) -> np.ndarray:
    items: dict[str, Item] = {item.key: item for item in list_source(source).items}
    spec = dataset.trunk
    how = spec.image_size, spec.resize, spec.interpolation, spec.decoding
    return np.stack([decode(read_item(items[key]), *how) for key in dataset.keys])


def full_model(spec: TrunkSpec, layer: str, head: Any) -> Any:
    """Return the model that fine-tuning without a cache trains: pixels in, frozen below a layer."""
    keras = load_keras()
    whole = load_application(spec)
    layers = name_layers(whole)
    for below in list(layers)[: list(layers).index(layer) + 1]:
        layers[below].trainable = False
    module = {"mobilenet": "mobilenet", "inception_v3": "inception_v3"}[spec.trunk]
    prepare = getattr(keras.applications, module).preprocess_input

    class Full(keras.Model):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.whole, self.head = whole, head
            self.pool = keras.layers.GlobalAveragePooling2D()

        def call(self, pixels: Any, training: bool = False) -> Any:
            maps = self.whole(prepare(keras.ops.cast(pixels, "float32")), training=False)
            return self.head(self.pool(maps), training=training)

    return Full()


def compare_with_the_full_model(dataset: Dataset, source: Path, tuning: FinetuneConfig) -> None:
    keras = load_keras()
    split, spec = split_rows(dataset), replace(HEAD, seed=3)
    rest = build_upper_blocks(dataset.trunk, dataset.layer)
    pooled = pool(rest.model, dataset.X)
    y = dataset.y
    train, held = split.train, split.validation
    head = DenseHead(spec).fit(FoldData(pooled[train], y[train], pooled[held], y[held]))
    other = keras.models.clone_model(head.model)
    other.set_weights(head.model.get_weights())
    full = full_model(dataset.trunk, dataset.layer, other)
    kind = "BinaryCrossentropy" if len(dataset.class_names) == 2 else "CategoricalCrossentropy"
    full.compile(
        optimizer=keras.optimizers.SGD(tuning.finetune_learning_rate, momentum=0.9),
        loss=getattr(keras.losses, kind)(),
    )
    pixels = replace(dataset, X=pixels_of(dataset, source))
    wanted = full.fit(
        MapBatches(pixels, split.train, spec, 3),
        epochs=tuning.finetune_epochs,
        validation_data=MapBatches(pixels, split.validation, spec),
        shuffle=False,
        verbose=0,
    ).history
    found = train_together(rest.model, head, dataset, split, tuning).history
    np.testing.assert_allclose(found["loss"], wanted["loss"], atol=1e-3)
    np.testing.assert_allclose(found["val_loss"], wanted["val_loss"], atol=1e-3)
    # Something was learnt, so that equality says something.
    assert found["loss"][-1] < found["loss"][0] - 1e-3


@pytest.mark.parametrize("classes", [2, 3])
def test_it_equals_fine_tuning_from_pixels(stores: dict[int, Path], classes: int) -> None:
    path = stores[classes]
    tuning = FinetuneConfig(finetune_epochs=3, finetune_learning_rate=0.1)
    compare_with_the_full_model(load_dataset(path), path.with_name("images"), tuning)


@pytest.mark.slow
def test_two_blocks_of_inception_v3(shared: Path, tmp_path: Path) -> None:
    weights = next((shared / "weights").glob("inception_v3*.h5"))
    source = tmp_path / "images"
    for side, count in (("train", 24), ("validation", 8)):
        for name in ("horses", "humans"):
            folder = source / side / name
            folder.mkdir(parents=True)
            images = sorted((shared / "horse-or-human" / side / name).iterdir())[:count]
            for image in images:
                (folder / image.name).symlink_to(image)
    extract_features(
        *(source, tmp_path / "maps.h5"),
        weights=str(weights),
        layer=("mixed8",),
        pooling="none",
        image_size=(150, 150),
    )
    dataset = load_dataset(tmp_path / "maps.h5")
    compare_with_the_full_model(dataset, source, FinetuneConfig(3, 1e-3))


def test_batch_normalisation_stays_in_inference_mode(stores: dict[int, Path]) -> None:
    dataset = load_dataset(stores[2])
    rest = build_upper_blocks(dataset.trunk, dataset.layer)
    rows = pool(rest.model, dataset.X), dataset.y
    head = DenseHead(HEAD).fit(FoldData(*rows, *rows))
    before = {weight.path: np.array(weight) for weight in rest.model.weights}
    train_together(rest.model, head, dataset, split_rows(dataset), FinetuneConfig(1, 1e-2))
    for weight in rest.model.weights:
        moved = not np.array_equal(before[weight.path], np.array(weight))
        assert moved == ("moving" not in weight.path), weight.path


def test_limits_of_keras_do_not_end_it_early(stores: dict[int, Path]) -> None:
    config, tuning = load_keras().config, FinetuneConfig(finetune_epochs=2)
    curves = []
    try:
        for limit in (None, 1):
            config.set_max_epochs(limit)
            config.set_max_steps_per_epoch(limit)
            result = run(load_dataset(stores[2]), TrainConfig((HEAD,), finetune=tuning))
            assert result.finetuned is not None
            curves.append(result.finetuned.history)
    finally:
        config.set_max_epochs(None)
        config.set_max_steps_per_epoch(None)
    assert len(curves[0]["loss"]) == 2
    for name, values in curves[0].items():
        np.testing.assert_allclose(curves[1][name], values, atol=1e-5)


def test_the_best_epoch_is_kept_and_the_test_split_is_used_once(stores: dict[int, Path]) -> None:
    dataset = load_dataset(stores[3])
    config = TrainConfig((HEAD,), finetune=FinetuneConfig(4, 0.1))
    result = run(dataset, config)
    assert result.head is not None
    assert result.finetuned is not None
    assert result.finetuned.epochs == 4
    losses = [result.finetuned.before.loss, *result.finetuned.history["val_loss"]]
    assert result.finetuned.best_epoch == int(np.argmin(losses))
    assert result.finetuned.best_epoch > 0
    assert result.finetuned.after.loss == pytest.approx(min(losses), abs=1e-5)
    assert result.finetuned.before.loss == pytest.approx(result.best.scores["loss"], abs=1e-5)
    split = split_rows(dataset)
    for rows, metrics in ((split.validation, result.finetuned.after), (split.test, result.test)):
        scores = result.head.predict_proba(dataset.X[rows])
        assert metrics == measure(dataset.y[rows], scores)
    assert result.splits[0].test.tolist() == split.test.tolist()
    assert str(result.finetuned) in str(result)


def test_steps_that_are_too_long_leave_the_head_alone(
    stores: dict[int, Path], caplog: pytest.LogCaptureFixture
) -> None:
    dataset = load_dataset(stores[2])
    result = run(dataset, TrainConfig((HEAD,), finetune=FinetuneConfig(2, 1e6)))
    assert result.head is not None
    assert result.finetuned is not None
    assert result.finetuned.best_epoch == 0
    assert result.finetuned.after == result.finetuned.before
    assert result.accuracy == result.best.scores["accuracy"]
    assert "lower --finetune-learning-rate" in caplog.text


@pytest.mark.slow
def test_the_settings_of_the_head_hold_for_both(stores: dict[int, Path]) -> None:
    dataset = load_dataset(stores[2])
    rest = build_upper_blocks(dataset.trunk, dataset.layer)
    weights = rest.model.get_weights()
    rows = pool(rest.model, dataset.X), dataset.y
    found = []
    for spec in (
        *(HEAD, replace(HEAD, l2=0.5), replace(HEAD, label_smoothing=0.3)),
        *(replace(HEAD, seed=1), replace(HEAD, dropout=0.5), replace(HEAD, dropout=0.5)),
    ):
        rest.model.set_weights(weights)
        head = DenseHead(replace(HEAD, dropout=spec.dropout)).fit(FoldData(*rows, *rows))
        head.spec = spec
        best = train_together(
            rest.model, head, dataset, split_rows(dataset), FinetuneConfig(2, 0.1)
        )
        found.append(best.history["val_loss"])
    # The same settings and seed are the same numbers, dropout included.
    np.testing.assert_allclose(found[4], found[5], atol=1e-6)
    assert len({round(losses[-1], 5) for losses in found[:5]}) == 5, found


def test_the_command(stores: dict[int, Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = stores[3]
    assert train_head([str(path), *QUICK, "--finetune-epochs", "2"]) == 0
    table = capsys.readouterr().out
    folder = path.with_name("maps_head")
    record = json.loads((folder / "result.json").read_text())
    assert [c["settings"]["head"] for c in record["candidates"]] == ["dense"]
    assert record["finetuned"]["layer"] == "conv_pw_12_relu"
    assert record["views"] is None
    assert record["finetuned"]["before"]["rows"] == record["finetuned"]["after"]["rows"] == 24
    assert record["split"]["test"] == record["test"]["rows"] == 24
    page = (folder / "report.html").read_text(encoding="utf-8")
    found = record["finetuned"]
    score = found["scores"]["accuracy"]
    assert found["low"] <= score <= found["high"]
    assert score == pytest.approx(found["after"]["accuracy"])
    assert f"<strong>{percent(score)}</strong> accuracy" in page
    if found["best_epoch"]:
        assert f"loss {found['before']['loss']:.3f}, then {found['after']['loss']:.3f}" in page
    else:
        assert "none of 2 epochs had a lower validation loss" in page
    assert "fine-tuning above" in page.replace("<wbr>", "")
    assert "Would more images help?" not in page
    assert "fine-tuned above conv_pw_12_relu: accuracy" in table
    bundle = load_head(folder)
    assert bundle.shape == (3, 3, 1024)
    # Images are labelled from pixels as they are from cached maps.
    dataset = load_dataset(path)
    assert predict_images([str(folder), str(path.with_name("images"))]) == 0
    lines = [line.split(",") for line in capsys.readouterr().out.splitlines()[1:]]
    scores = bundle.head.predict_proba(dataset.X)
    assert [line[0] for line in lines] == dataset.keys
    np.testing.assert_allclose([float(line[2]) for line in lines], scores.max(axis=1), atol=1e-4)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--finetune-epochs", "3"], 2, "--finetune-epochs: has no effect without --finetune"),
        (["--finetune", "--finetune-epochs", "0"], 2, "--finetune-epochs: found 0"),
        (["--finetune", "--finetune-learning-rate", "0"], 2, "--finetune-learning-rate: found 0"),
        (["--finetune", "--folds", "3"], 2, "--folds and --finetune cannot be combined"),
        (["--finetune", "--head", "logistic"], 2, "head: found logistic with --finetune"),
        (["--finetune", "--C", "1"], 2, "head: found logistic with --finetune"),
        (["--finetune", "--transform", "l2"], 2, "finetune: found l2; expected one layer"),
        (["--finetune", "--sweep", "layer=a,b"], 2, "layer: found a, b; --finetune expects one"),
    ],
    ids=str,
)
def test_what_does_not_go_together(
    words: list[str],
    code: int,
    message: str,
    stores: dict[int, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train_head([str(stores[2]), *words, "-o", str(stores[2].with_name("none"))]) == code
    assert message in capsys.readouterr().err
    assert not stores[2].with_name("none").exists()


def test_features_that_are_no_maps(stores: dict[int, Path], tmp_path: Path) -> None:
    dataset = load_dataset(stores[2])
    config = TrainConfig((HEAD,), finetune=FinetuneConfig())
    pooled = replace(dataset, X=dataset.X.mean(axis=(1, 2)))
    with pytest.raises(HeadError, match="extract again with --pooling none"):
        run(pooled, config)
    with pytest.raises(HeadError, match="expected 000000000000, which made the features"):
        run(replace(dataset, weights_sha256="0" * 64), config)


def test_settings_are_checked_when_they_are_made() -> None:
    with pytest.raises(SettingError, match="expected one layer and no --transform"):
        TrainConfig((replace(HEAD, layer=("a", "b")),), finetune=FinetuneConfig())


def test_join_is_what_was_trained(stores: dict[int, Path]) -> None:
    dataset = load_dataset(stores[2])
    rest = build_upper_blocks(dataset.trunk, dataset.layer)
    rows = pool(rest.model, dataset.X), dataset.y
    head = DenseHead(HEAD).fit(FoldData(*rows, *rows))
    joined = join(rest.model, head)
    np.testing.assert_allclose(
        joined.predict_proba(dataset.X), head.predict_proba(rows[0]), atol=1e-5
    )


def test_ctrl_c_while_the_blocks_train_keeps_the_ranked_heads(
    stores: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("classify.finetune.joint_model.train_together", stop)
    with pytest.raises(Stopped, match="1 of 1 candidates are done") as stopped:
        run(load_dataset(stores[2]), TrainConfig((HEAD,), finetune=FinetuneConfig(1)))
    assert stopped.value.result is not None
    assert stopped.value.result.finetuned is None


def test_freed_memory_is_kept_for_the_next_step() -> None:
    code = """
import re, sys
import numpy as np
from extract.trunks.backend import keep_freed_memory

def held() -> int:
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024

if sys.argv[1] == "kept":
    keep_freed_memory()
before = held()
for _ in range(2):
    weights = np.ones(64 << 17)
    del weights
print(held() - before)
"""
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        pytest.skip("needs the GNU C library")
    kept, given_back = (
        int(subprocess.check_output([sys.executable, "-c", code, which], cwd=ROOT))
        for which in ("kept", "given back")
    )
    assert given_back < 32
    assert 60 < kept < 96
