"""Time stage one against what people use today, on the same images.

    python benchmarks/stage_one.py IMAGES --weights FILE.h5 [--runs 3] [--peers PYTHON] [--large N]

InceptionV3 to ``mixed7`` at 150 px, averaged to 768 features. Every contestant runs in a process of
its own, in turn, ``--runs`` times; the table shows medians of images a second from the first
image read to the last feature on the host (headstart: in the file), behind a warm-up that loads
libraries, builds the model and runs one batch. Features are compared with Keras' own ``predict`` on
the pixels that Pillow gives. PyTorch contestants run in another environment (``--peers``), since
PyTorch and TensorFlow can crash in one process; their weights are random, which costs the same.
``--large 96`` times 96 of the images enlarged to 4000 x 3000 pixels, as a phone stores them.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SIZE = 150
BATCH = 32
ENDINGS = {".jpg", ".jpeg", ".png"}
LAYER = "mixed7"
BASELINE = "image_dataset_from_directory + predict"
Outcome = tuple[float, "np.ndarray | None"]


def headstart(precision: str, decoding: str | None = None) -> Callable[[Path, str], Outcome]:
    """Stage one as a user runs it, store and all."""

    def run(images: Path, weights: str) -> Outcome:
        from extract.pipeline.run import run_extraction as extract_features
        from extract.store.open import open_store

        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out.h5"
            settings: dict[str, Any] = {
                "weights": weights,
                "layer": (LAYER,),
                "image_size": (SIZE, SIZE),
            }
            settings |= {"precision": precision, "decoding": decoding}
            spent = extract_features(images, out, **settings).seconds
            with open_store(out) as store:
                features = store.read(LAYER, slice(None))
        return spent.wait + spent.trunk + spent.write, features

    return run


def bare(precision: str) -> Callable[[Path, str], Outcome]:
    """The engine alone on pixels that are at hand: no decoding, no store."""

    def run(images: Path, weights: str) -> Outcome:
        from extract.core.config import TrunkSpec
        from extract.engines.select import open_engine
        from extract.pipeline.low_precision import choose_calibration
        from extract.sources.listing import list_source

        items = list_source(images).items
        spec = TrunkSpec(weights=weights, image_size=(SIZE, SIZE))
        engine = open_engine(
            spec, precision=precision, calibrate=lambda spec: choose_calibration(items, spec, 2)
        )
        size = engine.batch_size
        pixels = np.random.default_rng(0).integers(0, 256, (size, SIZE, SIZE, 3), dtype=np.uint8)
        list(engine.run([(0, pixels)]))
        batches = [(i, pixels) for i in range(-(-len(items) // size))]
        began = time.perf_counter()
        list(engine.run(batches))
        # Scaled to the number of images: the last batch is full here.
        return (time.perf_counter() - began) * len(items) / (len(batches) * size), None

    return run


def keras_model(weights: str) -> Any:
    """InceptionV3 as the course builds it, cut and averaged."""
    import keras

    trunk = keras.applications.InceptionV3(
        input_shape=(SIZE, SIZE, 3), include_top=False, weights=None
    )
    trunk.load_weights(weights)
    pooled = keras.layers.GlobalAveragePooling2D()(trunk.get_layer(LAYER).output)
    model = keras.Model(trunk.input, pooled)
    model.predict(np.zeros((BATCH, SIZE, SIZE, 3), "float32"), verbose=0)
    return model


def image_dataset(images: Path, weights: str) -> Outcome:
    """The Keras 3 recipe."""
    import keras

    model = keras_model(weights)
    dataset = keras.utils.image_dataset_from_directory(
        images, image_size=(SIZE, SIZE), batch_size=BATCH, shuffle=False, verbose=False
    )
    prepared = dataset.map(lambda x, y: keras.applications.inception_v3.preprocess_input(x))
    return second_pass(lambda: model.predict(prepared.prefetch(2), verbose=0))


def second_pass(predict: Callable[[], np.ndarray]) -> Outcome:
    """Time the second pass: the first compiles for the last, smaller batch too, for seconds."""
    predict()
    began = time.perf_counter()
    features = predict()
    return time.perf_counter() - began, features


def image_generator(images: Path, weights: str) -> Outcome:
    """The recipe of the course, with the preprocessing that the trunk was trained on."""
    import keras
    from keras._tf_keras.keras.preprocessing.image import ImageDataGenerator

    model = keras_model(weights)
    generator = ImageDataGenerator(
        preprocessing_function=keras.applications.inception_v3.preprocess_input
    ).flow_from_directory(
        images,
        target_size=(SIZE, SIZE),
        batch_size=BATCH,
        shuffle=False,
        class_mode=None,
        interpolation="bilinear",
    )
    return second_pass(lambda: model.predict(generator, verbose=0))


def torch_loader(precision: str) -> Callable[[Path, str], Outcome]:
    """A DataLoader with two workers, channels last."""

    def run(images: Path, weights: str) -> Outcome:
        import torch
        from torchvision import datasets, models, transforms
        from torchvision.models.feature_extraction import create_feature_extractor

        whole = models.inception_v3(weights=None, init_weights=False, aux_logits=False).eval()
        model = create_feature_extractor(whole, ["Mixed_6e"]).to(memory_format=torch.channels_last)
        steps = [transforms.Resize((SIZE, SIZE)), transforms.ToTensor()]
        loader = torch.utils.data.DataLoader(
            datasets.ImageFolder(str(images), transforms.Compose(steps)),
            batch_size=BATCH,
            num_workers=2,
        )
        low = precision == "bfloat16"

        def features(x: Any) -> Any:
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=low):
                maps = model(x.contiguous(memory_format=torch.channels_last))["Mixed_6e"]
                return maps.float().mean((2, 3))

        features(torch.zeros(BATCH, 3, SIZE, SIZE))
        began = time.perf_counter()
        found = torch.cat([features(x) for x, _ in loader])
        return time.perf_counter() - began, found.numpy() * 0

    return run


def thingsvision(images: Path, weights: str) -> Outcome:
    """The nearest peer, through its own loader."""
    from thingsvision import get_extractor
    from thingsvision.utils.data import DataLoader, ImageDataset

    extractor = get_extractor(
        model_name="inception_v3", source="torchvision", device="cpu", pretrained=False
    )
    from torchvision import transforms

    steps = transforms.Compose([transforms.Resize((SIZE, SIZE)), transforms.ToTensor()])
    began = time.perf_counter()
    dataset = ImageDataset(
        root=str(images), out_path=tempfile.mkdtemp(), backend="pt", transforms=steps
    )
    batches = DataLoader(dataset=dataset, batch_size=BATCH, backend="pt")
    maps = extractor.extract_features(
        batches=batches, module_name="Mixed_6e", flatten_acts=False, output_type="ndarray"
    )
    found = maps.mean((2, 3))
    return time.perf_counter() - began, found * 0


CONTESTANTS: dict[str, Callable[[Path, str], Outcome]] = {
    BASELINE: image_dataset,
    "ImageDataGenerator + predict": image_generator,
    "headstart float32": headstart("float32"),
    "headstart bfloat16": headstart("bfloat16"),
    "headstart int8": headstart("int8"),
    "headstart float32, --decoding full": headstart("float32", "full"),
    "headstart int8, --decoding full": headstart("int8", "full"),
    "bare engine float32": bare("float32"),
    "bare engine bfloat16": bare("bfloat16"),
    "bare engine int8": bare("int8"),
}
PEERS: dict[str, Callable[[Path, str], Outcome]] = {
    "torch DataLoader float32": torch_loader("float32"),
    "torch DataLoader bfloat16": torch_loader("bfloat16"),
    "thingsvision": thingsvision,
}
REFERENCE = "ImageDataGenerator + predict"
LARGE = (4000, 3000)


def enlarge(images: Path, folder: Path, count: int) -> Path:
    """Write some images, spread over all, at the size and with the grain of a photograph."""
    from PIL import Image

    paths = sorted(path for path in images.rglob("*") if path.suffix.lower() in ENDINGS)
    random = np.random.default_rng(0)
    for path in paths[:: max(1, len(paths) // count)][:count]:
        with Image.open(path) as image:
            enlarged = image.convert("RGB").resize(LARGE, Image.Resampling.BICUBIC)
        grain = random.integers(-6, 7, (*LARGE[::-1], 1), dtype=np.int16)
        pixels = (np.asarray(enlarged) + grain).clip(0, 255).astype(np.uint8)
        target = folder / path.relative_to(images).with_suffix(".jpg")
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(target, quality=90)
    return folder


def main() -> None:
    """Run every contestant in turn and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("images", type=Path, help="class folders of images")
    parser.add_argument("--weights", required=True, help="InceptionV3 without top, as .h5")
    parser.add_argument("--runs", type=int, default=3, help="runs of each contestant")
    parser.add_argument("--peers", help="the Python of an environment with torch and thingsvision")
    parser.add_argument("--large", type=int, help="time so many images of 12 megapixels instead")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contestant:
        run_one(options.contestant, options.images, options.weights)
        return
    pythons = dict.fromkeys(CONTESTANTS, sys.executable)
    if options.peers:
        pythons |= dict.fromkeys(PEERS, options.peers)
    rates: dict[str, list[float]] = {name: [] for name in pythons}
    features: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        if options.large:
            options.images = enlarge(options.images, Path(folder) / "large", options.large)
        for run in range(options.runs + 1):
            for name, python in pythons.items():
                outcome = start(python, name, options, Path(folder) / "features.npy")
                if outcome is None:
                    continue
                # The first round fills caches, of files and of converted trunks.
                if run:
                    rates[name].append(outcome)
                if (Path(folder) / "features.npy").exists():
                    features[name] = np.load(Path(folder) / "features.npy")
    print_table(rates, features, options.runs)


def start(python: str, name: str, options: argparse.Namespace, file: Path) -> float | None:
    """Run one contestant in a process of its own; None, with its error shown, if it fails."""
    file.unlink(missing_ok=True)
    command = [python, __file__, str(options.images), "--weights", options.weights]
    child = subprocess.run(
        [*command, "--contestant", name],
        capture_output=True,
        text=True,
        check=False,
        cwd=file.parent,
    )
    if child.returncode:
        print(f"{name}: {child.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    answer = json.loads(child.stdout.strip().splitlines()[-1])
    print(f"{name}: {answer['rate']:.0f}/s", file=sys.stderr)
    return float(answer["rate"])


def run_one(name: str, images: Path, weights: str) -> None:
    """Run one contestant here and print its rate as JSON."""
    count = sum(path.suffix.lower() in ENDINGS for path in images.rglob("*"))
    seconds, features = (CONTESTANTS | PEERS)[name](images, weights)
    if features is not None:
        if len(features) != count:
            raise SystemExit(f"{len(features)} rows of {count} images")
        np.save("features.npy", features)
    print(json.dumps({"rate": count / seconds}))


def print_table(rates: dict[str, list[float]], features: dict[str, np.ndarray], runs: int) -> None:
    """Print medians, ratios to the baseline, and how far the features are from the reference."""
    medians = {name: statistics.median(found) for name, found in rates.items() if found}
    print(f"{platform.machine()}, {os.cpu_count()} cores, {runs} runs, medians (lowest to highest)")
    print("\n| | images/s | against the Keras recipe | relative difference of the features |")
    print("| --- | --- | --- | --- |")
    for name, median in medians.items():
        spread = f"{min(rates[name]):.0f} to {max(rates[name]):.0f}"
        print(
            f"| {name} | {median:.0f} ({spread}) | {median / medians[BASELINE]:.2f} x | "
            f"{difference(features.get(name), features.get(REFERENCE))} |"
        )


def difference(found: np.ndarray | None, reference: np.ndarray | None) -> str:
    """Return the Euclidean norm of the difference over that of the reference."""
    if found is None or reference is None:
        return "-"
    if not found.any():
        return "random weights"
    return f"{np.linalg.norm(found - reference) / np.linalg.norm(reference):.1e}"


if __name__ == "__main__":
    main()
