"""A file or folder that takes its place once it is whole: nothing else is lost or left."""

from pathlib import Path

import pytest

from extract.errors import HeadError, StoreError
from extract.whole import whole


def everything(folder: Path) -> dict[str, str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in found}


def write(path: Path, folder: bool, text: str) -> None:
    if folder:
        path.mkdir()
    (path / "part" if folder else path).write_text(text)


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("former", [False, True])
def test_what_is_whole_takes_its_place(folder: bool, former: bool, tmp_path: Path) -> None:
    path = tmp_path / "made.v1.keras"
    if former:
        write(path, folder, "old")
    with whole(path, HeadError) as beside:
        assert beside.suffix == ".keras"
        write(beside, folder, "new")
        assert path.exists() == former
    assert everything(tmp_path) == {"made.v1.keras" + "/part" * folder: "new"}


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("stop", [OSError("no room"), KeyboardInterrupt(), StoreError("damaged")])
def test_what_is_not_leaves_the_former_one(
    folder: bool, stop: BaseException, tmp_path: Path
) -> None:
    path = tmp_path / "made"
    write(path, folder, "old")
    before = everything(tmp_path)
    kind = HeadError if type(stop) is OSError else type(stop)

    def fail() -> None:
        with whole(path, HeadError) as beside:
            write(beside, folder, "half")
            raise stop

    with pytest.raises(kind) as raised:
        fail()
    if kind is HeadError:
        assert str(raised.value) == f"{path}: cannot be written: no room"
    else:
        assert raised.value is stop  # it says for itself what is wrong
    assert everything(tmp_path) == before


def test_a_link_stays_and_a_file_is_no_folders_successor(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    write(tmp_path / "kept" / "file", False, "old")
    (tmp_path / "link").symlink_to(tmp_path / "kept" / "file")
    with whole(tmp_path / "link", HeadError) as beside:
        beside.write_text("new")
    assert (tmp_path / "link").is_symlink()
    with pytest.raises(HeadError), whole(tmp_path / "kept", HeadError) as beside:
        beside.write_text("a file in the place of a folder")
    assert everything(tmp_path / "kept") == {"file": "new"}
