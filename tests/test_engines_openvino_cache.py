"""Converted trunks on disk: used without Keras, made anew when anything about them is wrong."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from extract import cli
from extract.conversion import process
from extract.core.applications import TRUNKS
from extract.core.config import TrunkSpec
from extract.core.console import log
from extract.core.errors import EngineError
from extract.engines import openvino_cache as compiled
from extract.engines.keras_engine import KerasEngine
from extract.engines.openvino_cache import CompiledTrunk, convert, find_compiled, keep
from extract.engines.openvino_engine import OpenVinoEngine
from extract.engines.select import open_engine
from extract.trunks.trunk import build_trunk
from tests.conftest import ROOT, run_on_small_disk
from tests.test_cli import QUICK_FLAGS

SPEC = TrunkSpec(
    trunk="mobilenet", weights="none", layer=("conv1_relu",), pooling="avg", image_size=(32, 32)
)

# The smallest of each family: what its larger members have more of is the same layers.
FAMILIES = (
    *("convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_b0", "mobilenet"),
    *("inception_resnet_v2", "inception_v3", "mobilenet_v2", "mobilenet_v3_small"),
    *("nasnet_mobile", "resnet50", "resnet50_v2", "vgg16", "vgg19", "xception"),
)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> CompiledTrunk:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(tmp_path_factory.mktemp("converted")))
        return convert(build_trunk(SPEC))


@pytest.fixture
def kept(
    converted: CompiledTrunk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> CompiledTrunk:
    """A cache that holds one converted trunk, to be damaged."""
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    folder = tmp_path / "cache" / converted.folder.name
    shutil.copytree(converted.folder, folder)
    return replace(converted, folder=folder)


def test_what_was_kept_is_found(kept: CompiledTrunk) -> None:
    assert find_compiled(SPEC) == kept
    assert [path.name for path in compiled.cache_folder().iterdir()] == [kept.folder.name]


@pytest.mark.parametrize(
    "change",
    [
        {"layer": ("conv1",)},
        {"pooling": "max"},
        {"image_size": (40, 40)},
        {"preprocess": "rescale"},
        {"weights": "imagenet"},
        {"trunk": "mobilenet_v2"},
    ],
)
def test_another_trunk_is_not(kept: CompiledTrunk, change: dict[str, object]) -> None:
    assert find_compiled(replace(SPEC, **change)) is None  # type: ignore[arg-type]


def test_how_images_are_resized_is_no_part_of_it(kept: CompiledTrunk) -> None:
    assert find_compiled(replace(SPEC, resize="crop", interpolation="nearest"))


def test_another_version_of_a_maker_is_another_trunk(
    kept: CompiledTrunk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "installed_version", lambda name: "0.0")
    assert find_compiled(SPEC) is None


def test_another_file_of_weights_is_another_trunk(tmp_path: Path, kept: CompiledTrunk) -> None:
    found = []
    for content in (b"one", b"two"):
        (tmp_path / "w.h5").write_bytes(content)
        found.append(compiled._identity(replace(SPEC, weights=str(tmp_path / "w.h5")), ""))
    assert found[0] != found[1]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def foreign(path: Path) -> None:
    path.write_text(json.dumps({"identity": {}, "files": {}, "shapes": {}, "weights_sha256": ""}))


def nonsense(path: Path) -> None:
    path.write_text("[1, 2]")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model.bin", flip),
        ("model.xml", flip),
        ("model.bin", truncate),
        ("model.bin", Path.unlink),
        ("trunk.json", truncate),
        ("trunk.json", foreign),
        ("trunk.json", nonsense),
    ],
)
def test_a_damaged_one_is_made_anew(
    kept: CompiledTrunk, name: str, damage: Callable[[Path], None]
) -> None:
    damage(kept.folder / name)
    assert find_compiled(SPEC) is None
    assert open_engine(SPEC, engine="openvino").weights_sha256 == kept.weights_sha256
    assert find_compiled(SPEC) == kept


@pytest.mark.parametrize("damage", [truncate, nonsense, foreign, Path.unlink])
def test_what_an_open_spec_was_settled_to_is_remembered(
    kept: CompiledTrunk, damage: Callable[[Path], None]
) -> None:
    asked = replace(SPEC, pooling="")
    assert find_compiled(asked) is None
    assert open_engine(asked, engine="openvino").spec == SPEC
    assert find_compiled(asked) == kept
    (remembered,) = compiled.cache_folder().glob("*.json")
    damage(remembered)
    assert find_compiled(asked) is None
    assert open_engine(asked, engine="openvino").spec == SPEC
    assert find_compiled(asked) == kept


@pytest.fixture
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache and a home that cannot be written; returns the folder for temporary files."""
    (tmp_path / "file").touch()
    (tmp_path / "temporary").mkdir()
    for name in ("HEADSTART_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


@pytest.mark.skipif(sys.platform != "linux", reason="the cache is elsewhere")
def test_without_a_cache_the_temporary_folder_is_one(no_cache: Path) -> None:
    asked = replace(SPEC, pooling="")
    for _ in range(2):
        assert open_engine(asked, engine="openvino").shapes == {"conv1_relu": (32,)}
        found = find_compiled(asked)
        assert found
        (folder,) = no_cache.iterdir()
        assert found.folder.parent == folder
        assert folder.stat().st_mode & 0o777 == 0o700
        assert len(list(folder.iterdir())) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="needs rights of users")
def test_a_temporary_folder_that_others_can_write_is_not_used(no_cache: Path) -> None:
    for name in (f"headstart-{os.getuid()}", "other"):
        (no_cache / name).mkdir()
        (no_cache / name).chmod(0o777)
    with pytest.raises(EngineError, match=r"cannot be saved .*HEADSTART_CACHE, or use --engine"):
        open_engine(SPEC, engine="openvino")
    assert not list(no_cache.glob("*/*"))


FULL = """
import os, subprocess, sys, tempfile
from pathlib import Path
from extract import cli, show_cli

source, disk, *flags = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
os.environ["HEADSTART_CACHE"], os.environ["XDG_CACHE_HOME"] = f"{disk}/a", f"{disk}/b"
space = os.statvfs(disk)
Path(disk, "ballast").write_bytes(bytes(space.f_bavail * space.f_frsize))
# The cache, then the folder for temporary files, too.
for number, folder in enumerate((source, disk)):
    tempfile.tempdir = folder
    out = f"{source}/{number}.h5"
    assert cli.main([source, out, *flags, *(["--overwrite"] if number else [])]) == 0
    assert show_cli.main([out, "--verify"]) == 0
    assert not [*Path(disk).glob("a/*"), *Path(disk).glob("b/headstart/*")]
    if not number:
        (kept,) = Path(source).glob("headstart-*/*/model.bin")
        subprocess.run(["rm", "-r", kept.parents[1]], check=True)
assert cli.main([source, f"{source}/2.h5", *flags, "--engine", "openvino"]) == 1
"""


@pytest.mark.slow
def test_a_full_cache_costs_nothing_but_speed(images: Path, tmp_path: Path) -> None:
    said = run_on_small_disk(FULL, images, tmp_path / "disk", *QUICK_FLAGS)
    assert said.count("in openvino float32") == 1
    assert said.count("the converted trunk cannot be saved") == 2
    assert said.count("make room, name another folder with HEADSTART_CACHE") == 2
    assert "; running it in Keras" in said
    assert said.count("in keras float32") == 1


def test_without_a_folder_for_temporary_files_the_remedy_is_named(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "none")])
    assert cli.main([str(images), str(tmp_path / "out.h5"), *QUICK_FLAGS]) == 1
    said = capsys.readouterr().err
    assert "no temporary folder can be written; expected one" in said
    assert "name one with TMPDIR and run the same command again" in said


def open_to_all(path: Path) -> None:
    path.chmod(0o777)


def of_another(path: Path) -> None:
    if os.getuid():
        pytest.skip("only root can give a file away")
    os.chown(path, 12345, 12345)


@pytest.mark.skipif(sys.platform == "win32", reason="needs rights of users")
@pytest.mark.parametrize("name", [".", "model.bin", "model.xml", "trunk.json"])
@pytest.mark.parametrize("change", [open_to_all, of_another])
def test_what_another_user_can_have_written_is_not_believed(
    kept: CompiledTrunk,
    name: str,
    change: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(log, "propagate", True)
    change(kept.folder / name)
    assert find_compiled(SPEC) is None
    digest = hashlib.sha256((kept.folder / "trunk.json").read_bytes()).hexdigest()
    assert f"not used; if you trust it, set HEADSTART_TRUST={digest}" in caplog.text
    monkeypatch.setenv("HEADSTART_TRUST", digest)
    assert find_compiled(SPEC) == kept
    (kept.folder / "model.bin").write_bytes(b"planted")
    assert find_compiled(SPEC) is None


@pytest.mark.skipif(sys.platform == "win32", reason="needs rights of users")
def test_settings_that_another_user_can_have_written_are_not_believed(kept: CompiledTrunk) -> None:
    asked = replace(SPEC, pooling="")
    compiled._remember(asked, SPEC)
    assert find_compiled(asked) == kept
    (remembered,) = compiled.cache_folder().glob("*.json")
    remembered.chmod(0o666)
    assert find_compiled(asked) is None


@pytest.mark.skipif(sys.platform == "win32", reason="needs rights of users")
def test_no_umask_opens_the_cache_to_others(kept: CompiledTrunk) -> None:
    shutil.rmtree(kept.folder)
    former = os.umask(0)
    try:
        convert(build_trunk(SPEC), replace(SPEC, pooling=""))
    finally:
        os.umask(former)
    assert find_compiled(SPEC)
    for path in (kept.folder.parent, *kept.folder.parent.rglob("*")):
        assert not path.stat().st_mode & 0o022, path


KILLED = """
import os, signal
from pathlib import Path
from extract.engines import openvino_cache as compiled
from extract.trunks.trunk import build_trunk
from tests.test_engines_openvino_cache import SPEC, replace

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

if os.fork() == 0:
    Path.replace = kill
    compiled._remember(SPEC, SPEC)
os.wait()
compiled._digests = kill
compiled.convert(build_trunk(SPEC))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
def test_what_killed_conversions_leave_is_cleared_a_day_later(
    converted: CompiledTrunk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))
    child = subprocess.run([sys.executable, "-c", KILLED], cwd=ROOT, check=False)
    assert child.returncode == -signal.SIGKILL
    left = sorted(tmp_path.iterdir(), key=Path.is_dir)
    assert [path.is_dir() for path in left] == [False, True]
    assert (left[1] / "model.bin").exists()
    (tmp_path / ".new-other").touch()  # it may be at work on another machine
    for path in left:
        os.utime(path, (time.time() - 100_000,) * 2)
    compiled._remember(SPEC, SPEC)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ""}
    assert [path.name for path in tmp_path.glob(".*")] == [".new-other"]


def test_a_conversion_reports_to_nobody(kept: CompiledTrunk) -> None:
    assert sys.modules["openvino_telemetry"] is None
    telemetry = sys.modules["openvino.tools.ovc.telemetry_utils"]
    assert telemetry.tm.__name__ == "openvino.tools.ovc.telemetry_stub"


def test_every_family_is_tested() -> None:
    assert {TRUNKS[name].module for name in FAMILIES} == {t.module for t in TRUNKS.values()}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "layer"),
    # The whole model adds a pooling and a matrix product or two: some families will do.
    [
        *((name, ()) for name in FAMILIES),
        ("mobilenet", ("output",)),
        ("convnext_tiny", ("output",)),
    ],
)
def test_every_family_of_trunks_converts_and_equals_keras(
    name: str, layer: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = TrunkSpec(trunk=name, weights="none", layer=layer)
    trunk = build_trunk(spec)
    pixels = np.random.default_rng(0).integers(0, 256, (2, *spec.image_size, 3), dtype=np.uint8)
    ((_, expected),) = KerasEngine(trunk, "float32", 2).run([(None, pixels)])
    try:
        converted = convert(trunk)
    except EngineError:
        pytest.fail(f"{name} does not convert")
    ((_, found),) = OpenVinoEngine(converted, "float32", 2, "float32", 0).run([(None, pixels)])
    values, wanted = found[spec.layer[0]], expected[spec.layer[0]]
    if layer:
        # Random weights give scores of any sharpness, so that only their order can be compared.
        assert values.shape == (2, 1000)
        np.testing.assert_allclose(values.sum(axis=1), 1, atol=1e-4)
        np.testing.assert_array_equal(values.argmax(axis=1), wanted.argmax(axis=1))
    else:
        # Random weights add up rounding, most in efficientnet_v2_b0: 9e-5.
        assert np.linalg.norm(values - wanted) <= 1e-4 * np.linalg.norm(wanted)
    monkeypatch.setattr(process, "_is_worth_it", lambda spec: not process.HAS_OLD_KERAS)
    with process.convert_apart(spec) as apart:
        # The complete mobilenet has a layer that only TensorFlow converts.
        is_known = TRUNKS[name].module in process.FAMILIES and not layer
        assert bool(apart) == (is_known and not process.HAS_OLD_KERAS)
        if apart:
            engine = OpenVinoEngine(keep(apart.model, apart, spec), "float32", 2, "float32", 0)
            ((_, other),) = engine.run([(None, pixels)])
            difference = other[spec.layer[0]] - values
            assert np.linalg.norm(difference) <= 1e-5 * np.linalg.norm(values)
