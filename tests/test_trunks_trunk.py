"""The trunk: cut, weighted, frozen, and the same function as Keras' own model."""

import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extract.core.applications import TRUNKS
from extract.core.config import TrunkSpec
from extract.core.errors import TrunkError
from extract.trunks import weights
from extract.trunks.backend import convert_to_openvino, load_keras
from extract.trunks.trunk import Trunk, build_trunk, list_layers, name_layers
from extract.trunks.weights import build_application, digest_weights

# A port at which nobody listens.
NOBODY = "http://127.0.0.1:9"
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 80, 80, 3), dtype=np.uint8)


def make(trunk: str = "mobilenet", layer: str = "conv_pw_1_relu", **settings: Any) -> Trunk:
    spec = {"weights": "none", "image_size": (80, 80), "pooling": "none", **settings}
    return build_trunk(TrunkSpec(trunk=trunk, layer=(layer,), **spec))


def features(trunk: Trunk, pixels: np.ndarray = PIXELS) -> np.ndarray:
    return np.asarray(trunk.model(pixels))


def test_a_failed_conversion_leaves_the_logging_of_a_notebook_as_it_is() -> None:
    root = logging.getLogger()
    former = root.level, root.filters[:], root.handlers[:]
    with pytest.raises(Exception, match="nonesuch"):
        convert_to_openvino("nonesuch.xml")
    assert (root.level, root.filters, root.handlers) == former


@pytest.mark.parametrize(
    ("trunk", "layer", "preprocess"),
    [
        pytest.param("inception_v3", "mixed1", "auto", marks=pytest.mark.slow),
        ("vgg16", "block1_pool", "auto"),
        # Without a trunk's own preprocessing all are treated the same.
        *(("mobilenet", "conv_pw_1_relu", how) for how in ("auto", "rescale", "none")),
    ],
)
def test_features_are_those_of_the_plain_model(trunk: str, layer: str, preprocess: str) -> None:
    keras = load_keras()
    spec = TrunkSpec(
        trunk=trunk,
        layer=(layer,),
        weights="none",
        image_size=(80, 80),
        pooling="none",
        preprocess=preprocess,
    )
    built = build_trunk(spec)
    whole = weights.load_application(spec)
    plain = keras.Model(whole.inputs, name_layers(whole)[layer].output)
    # float32 copies: preprocess_input works in place.
    prepared = PIXELS.astype("float32")
    if preprocess == "auto":
        prepared = getattr(keras.applications, TRUNKS[trunk].module).preprocess_input(prepared)
    elif preprocess == "rescale":
        prepared = prepared / 255
    expected = plain.predict(prepared, verbose=0)
    assert built.shapes[layer] == expected.shape[1:]
    np.testing.assert_allclose(features(built), expected, atol=1e-4, rtol=1e-5)


def test_preprocessing_makes_a_difference() -> None:
    found = [features(make(preprocess=how)) for how in ("auto", "rescale", "none")]
    assert abs(found[0] - found[1]).max() > 0.01
    assert abs(found[1] - found[2]).max() > 0.01


@pytest.mark.parametrize(("pooling", "reduce"), [("avg", np.mean), ("max", np.max)])
def test_pooling(pooling: str, reduce: Any) -> None:
    plain, pooled = make(), make(pooling=pooling)
    assert pooled.shapes == {"conv_pw_1_relu": (64,)}
    np.testing.assert_allclose(
        features(pooled), reduce(features(plain), axis=(1, 2)), atol=1e-5, rtol=1e-5
    )


def test_pooling_a_vector_is_refused() -> None:
    with pytest.raises(TrunkError, match="pooling avg can have no effect; use --pooling none"):
        make("efficientnet_b0", "block1a_se_squeeze", pooling="avg")
    assert make("efficientnet_b0", "block1a_se_squeeze").shapes == {"block1a_se_squeeze": (32,)}


def test_several_layers_in_one_pass() -> None:
    layers = ("conv1_relu", "conv_pw_1_relu")
    both = build_trunk(
        TrunkSpec(trunk="mobilenet", weights="none", layer=layers, image_size=(80, 80))
    )
    assert both.shapes == {"conv1_relu": (32,), "conv_pw_1_relu": (64,)}
    outputs = both.model(PIXELS)
    for layer, output in zip(layers, outputs, strict=True):
        alone = features(make(layer=layer, pooling="avg"))
        np.testing.assert_allclose(output, alone, atol=1e-5)


def test_only_the_part_up_to_the_layer_is_kept() -> None:
    assert make(layer="conv1_relu").model.count_params() < make().model.count_params() < 10_000


def test_the_trunk_is_frozen_and_in_inference_mode() -> None:
    keras = load_keras()
    trunk = make()
    assert trunk.model.trainable_variables == []
    expected = features(trunk)
    wrapped = keras.Sequential([trunk.model, keras.layers.Flatten(), keras.layers.Dense(1)])
    wrapped.compile("sgd", "mse")
    wrapped.fit(PIXELS, np.ones(3), verbose=0)
    np.testing.assert_array_equal(features(trunk), expected)
    np.testing.assert_array_equal(np.asarray(trunk.model(PIXELS, training=True)), expected)


def test_names_do_not_depend_on_what_was_built_before() -> None:
    first = [name for _, name, _ in list_layers(TrunkSpec(trunk="inception_v3"))]
    again = [name for _, name, _ in list_layers(TrunkSpec(trunk="inception_v3"))]
    assert first == again
    assert first[:3] == ["input_layer", "conv2d", "batch_normalization"]
    assert first[-1] == "mixed10"
    assert "conv2d_93" in first
    assert len(set(first)) == len(first) == 311


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer": "mixed_7"}, "layer 'mixed_7' is unknown; nearest: mixed7"),
        (
            {"image_size": (50, 50)},
            "inception_v3 at 50 x 50 pixels: Input size must be at least 75",
        ),
        ({"weights": "nowhere.h5"}, "nowhere.h5: no such file; expected weights of inception_v3"),
    ],
)
def test_what_cannot_be_built_is_said(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TrunkError, match=message):
        make("inception_v3", **{"layer": "mixed7", **settings})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One set of MobileNet's weights in every form that Keras writes."""
    keras = load_keras()
    folder = tmp_path_factory.mktemp("weights")
    spec = TrunkSpec(trunk="mobilenet", weights="none", image_size=(80, 80))
    top = build_application(spec, None, top=True)
    values = [np.full(w.shape, 0.01 * (i + 1), "f4") for i, w in enumerate(top.weights)]
    top.set_weights(values)
    plain = build_application(spec, None)
    plain.set_weights(values[: len(plain.weights)])
    from keras.src.legacy.saving import legacy_h5_format

    for name, model in (("plain", plain), ("top", top)):
        model.save(folder / f"{name}.keras")
        model.save_weights(folder / f"{name}.weights.h5")
        legacy_h5_format.save_model_to_hdf5(model, str(folder / f"{name}.h5"))
    short = keras.Model(plain.inputs, plain.get_layer("conv_pw_3_relu").output)
    short.save_weights(folder / "short.weights.h5")
    return folder


@pytest.mark.parametrize("ending", ["h5", "weights.h5", "keras"])
@pytest.mark.parametrize("form", ["plain", "top"])
def test_every_form_of_weights_file_gives_the_same_trunk(
    saved: Path, form: str, ending: str
) -> None:
    trunk = make(weights=str(saved / f"{form}.{ending}"))
    first = trunk.model.weights[0]
    np.testing.assert_array_equal(np.asarray(first), np.full(first.shape, 0.01, "f4"))
    assert trunk.weights_sha256 == make(weights=str(saved / "plain.h5")).weights_sha256
    assert trunk.weights_sha256 != make(weights="none").weights_sha256


@pytest.mark.parametrize("ending", ["h5", "weights.h5", "keras"])
def test_a_truncated_weights_file_is_refused(saved: Path, tmp_path: Path, ending: str) -> None:
    content = (saved / f"plain.{ending}").read_bytes()
    path = tmp_path / f"cut.{ending}"
    for size in (0, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(TrunkError, match=r"cut\..*expected weights of mobilenet"):
            make(weights=str(path))


@pytest.mark.parametrize("name", ["plain.h5", "plain.weights.h5", "plain.keras", "top.keras"])
def test_weights_of_another_trunk_are_refused(saved: Path, name: str) -> None:
    with pytest.raises(TrunkError, match="expected weights of mobilenet_v2"):
        make("mobilenet_v2", "Conv1_relu", weights=str(saved / name))


def test_a_file_that_lacks_layers_is_refused(saved: Path) -> None:
    with pytest.raises(TrunkError, match=r"short.weights.h5: .*expected weights of mobilenet"):
        make(weights=str(saved / "short.weights.h5"))


def test_random_weights_are_the_same_every_time() -> None:
    assert make().weights_sha256 == make().weights_sha256
    np.testing.assert_array_equal(features(make()), features(make()))


def build_elsewhere(
    home: Path, proxy: str, trunk: str, timeout_s: float = 10.0, layer: str = ""
) -> str:
    """Build a trunk with ImageNet's weights in a process with its own Keras cache and network."""
    code = (
        "import sys; from extract.trunks import weights\n"
        "from extract.trunks.trunk import build_trunk\n"
        "from extract.core.config import TrunkSpec; from extract.core.errors import TrunkError\n"
        f"weights.DOWNLOAD_TIMEOUT_S = {timeout_s}\n"
        "spec = TrunkSpec(trunk=sys.argv[1], image_size=(224, 224), layer=tuple(sys.argv[2:]))\n"
        "try: trunk = build_trunk(spec)\n"
        "except TrunkError as error: print(type(error).__name__, error)\n"
        "else: print(trunk.model.get_weights()[0][0, 0, 0, :3])"
    )
    child = subprocess.run(
        [sys.executable, "-c", code, trunk, *([layer] if layer else [])],
        env={**os.environ, "KERAS_HOME": str(home), "https_proxy": proxy},
        capture_output=True,
        text=True,
        check=True,
    )
    return child.stdout


@pytest.mark.slow
def test_vgg16_without_the_internet(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    # The first values of block1_conv1 as Keras publishes them.
    answer = build_elsewhere(tmp_path, NOBODY, "vgg16")
    assert answer.split() == ["[0.42947057", "0.11727387", "0.03401296]"]


@pytest.fixture
def silent_proxy() -> Iterator[str]:
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held = []
        stop = threading.Event()

        def accept() -> None:
            server.settimeout(0.1)
            while not stop.is_set():
                try:
                    held.append(server.accept()[0])
                except TimeoutError:
                    continue

        thread = threading.Thread(target=accept)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        stop.set()
        thread.join()
        for connection in held:
            connection.close()


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_host_that_never_answers_costs_seconds(silent_proxy: str, tmp_path: Path) -> None:
    answer = build_elsewhere(tmp_path, silent_proxy, "mobilenet", timeout_s=0.5)
    assert answer.startswith("WeightsUnavailableError ImageNet weights of mobilenet: not in")
    assert "give --weights FILE" in answer
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trunk", "file"),
    [
        ("mobilenet", "mobilenet_1_0_224_tf_no_top.h5"),
        ("inception_v3", "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5"),
    ],
)
def test_a_truncated_download_is_never_trusted(tmp_path: Path, trunk: str, file: str) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / file).write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(1000))
    answer = build_elsewhere(tmp_path, NOBODY, trunk)
    assert answer.startswith("WeightsUnavailableError"), answer


@pytest.mark.slow
@pytest.mark.parametrize("name", TRUNKS)
def test_the_table_of_trunks_is_what_their_models_say(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keras = load_keras()
    known = TRUNKS[name]
    spec = TrunkSpec(trunk=name)
    with keras.StatelessScope(initialize_variables=False):  # names and shapes need no values
        layers = list_layers(spec)
    keras.utils.clear_session()  # or they would be made with the next model
    _, last, shape = layers[-1]
    if name != "inception_v3":
        assert last == known.cut
    assert {n: s for _, n, s in layers}[known.cut][-1] == known.features
    assert len(shape) == 4
    assert known.in_keras == hasattr(keras.applications, known.function)
    if known.in_keras:
        assert hasattr(getattr(keras.applications, known.module), "preprocess_input")
    if known.in_keras and "mobilenet_v3" not in name:  # takes any size
        assert native_shape(known.function, monkeypatch) == (*spec.image_size, 3)


def native_shape(function: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, ...]:
    """Ask a function of Keras for the size of its complete model, and for no more of it."""
    from keras.src.applications import imagenet_utils

    found, obtain = [], imagenet_utils.obtain_input_shape

    def stop(*given: Any, **settings: Any) -> None:
        found.append(obtain(*given, **settings))
        raise StopIteration

    monkeypatch.setattr(imagenet_utils, "obtain_input_shape", stop)
    with pytest.raises(StopIteration):
        getattr(load_keras().applications, function)(weights=None)
    return tuple(found[0])


def test_the_courses_own_call(shared: Path) -> None:
    keras = load_keras()
    path = shared / "weights" / "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5"
    trunk = make("inception_v3", "mixed7", weights=str(path), image_size=(150, 150))
    assert trunk.shapes == {"mixed7": (7, 7, 768)}
    plain = keras.applications.InceptionV3(
        input_shape=(150, 150, 3), include_top=False, weights=None
    )
    plain.load_weights(str(path))
    model = keras.Model(plain.input, plain.get_layer("mixed7").output)
    pixels = np.random.default_rng(1).integers(0, 256, (4, 150, 150, 3), dtype=np.uint8)
    prepared = keras.applications.inception_v3.preprocess_input(pixels.astype("float32"))
    expected = model.predict(prepared, verbose=0)
    np.testing.assert_allclose(features(trunk, pixels), expected, atol=1e-4)
    assert digest_weights(model) == trunk.weights_sha256
    assert os.path.getsize(path) > 80e6
