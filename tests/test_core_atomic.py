"""What is made beside its place: there whole or not at all, cleared when its maker was killed."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from extract.core.atomic import (
    atomic_write,
    cache_write,
    move_into_place,
    remove_leftovers,
    temporary_path,
)
from extract.core.errors import HeadError, StoreError
from extract.limits.locks import locked

CODE = """
import os, signal, sys
from pathlib import Path
from extract.core import atomic

place, moment = Path(sys.argv[1]), sys.argv[2]
with atomic.temporary_path(place) as made:
    made.mkdir()
    (made / "file").write_text("new")
    if moment == "making":
        os.kill(os.getpid(), signal.SIGKILL)
    if moment == "between":
        Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    if moment == "removing":
        atomic.remove = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    atomic.move_into_place(made, place)
"""


def tree(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in files}


@pytest.mark.parametrize(
    ("moment", "found"), [("making", "former"), ("between", "former"), ("removing", "new")]
)
def test_killed_at_a_step_a_folder_is_the_former_or_the_new_one(
    tmp_path: Path, moment: str, found: str
) -> None:
    place = tmp_path / "place.d"
    place.mkdir()
    (place / "file").write_text("former")
    child = subprocess.run([sys.executable, "-c", CODE, place, moment], check=False)
    assert child.returncode == -signal.SIGKILL
    assert place.exists() == (moment != "between")
    assert len(list(tmp_path.iterdir())) == 2
    remove_leftovers(place)
    assert tree(tmp_path) == {"place.d/file": found}


def test_on_macos_content_is_on_the_disk_and_not_in_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    # A number that Linux does not know is refused, as by a disk without the command.
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 9999, raising=False)
    with atomic_write(tmp_path / "refused", StoreError) as made:
        made.write_text("whole")
    monkeypatch.setattr(fcntl, "fcntl", lambda handle, command: asked.append(command))
    monkeypatch.setattr(os, "fsync", lambda handle: asked.append("fsync"))
    with atomic_write(tmp_path / "place", StoreError) as made:
        made.write_text("whole")
    assert asked == [9999, 9999]  # the file, and the name in its folder
    assert tree(tmp_path) == {"refused": "whole", "place": "whole"}


def test_without_fcntl_what_is_written_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows
    place = tmp_path / "place"
    with atomic_write(place, HeadError) as made:
        made.write_text("whole")
    assert tree(tmp_path) == {"place": "whole"}


def test_what_this_process_left_is_cleared_and_what_others_make_is_not(tmp_path: Path) -> None:
    place = tmp_path / "out.h5"
    with temporary_path(place) as made:
        mine = made.name
    others = mine.replace(str(os.getpid()), str(os.getppid()))
    dead = mine.replace(str(os.getpid()), "99999999")
    elsewhere, day_ago = (f".out.00000000-{number}.new.h5" for number in (1, 99999999))
    for name in (mine, others, dead, elsewhere, day_ago, ".out.new.h5", ".other.1.new.h5"):
        (tmp_path / name).write_text("half")
    os.utime(tmp_path / day_ago, (time.time() - 100_000,) * 2)
    with temporary_path(place) as made:
        assert not made.exists()
        made.write_text("whole")
        move_into_place(made, place)
    assert tree(tmp_path) == {
        "out.h5": "whole",
        **dict.fromkeys((others, elsewhere, ".out.new.h5", ".other.1.new.h5"), "half"),
    }


RUN = (
    "import sys; from extract.core import atomic; atomic.remove_leftovers(atomic.Path(sys.argv[1]))"
)


@pytest.mark.skipif(sys.platform != "linux", reason="needs containers")
def test_another_container_leaves_what_this_one_makes(tmp_path: Path) -> None:
    container = ["unshare", "-rpf", "--mount-proc", sys.executable, "-c", RUN]
    if subprocess.run(
        [*container, tmp_path / "nothing"], check=False, capture_output=True
    ).returncode:
        pytest.skip("no container can be made here")
    place = tmp_path / "out.h5"
    with temporary_path(place) as made:
        made.write_text("half")
        subprocess.run([*container, place], check=True)
        assert made.read_text() == "half"


def test_a_long_name_leaves_room_for_a_temporary_one(tmp_path: Path) -> None:
    place = tmp_path / ("n" * 252 + ".h5")
    for text in ("one", "two"):
        with atomic_write(place, StoreError) as made:
            made.write_text(text)
        assert place.read_text() == text
    assert list(tmp_path.iterdir()) == [place]


def test_what_fails_leaves_the_former(tmp_path: Path) -> None:
    place = tmp_path / "out.csv"
    place.write_text("former")

    def fail() -> None:
        with temporary_path(place) as made:
            made.write_text("half")
            move_into_place(tmp_path / "nothing", place)

    with pytest.raises(FileNotFoundError):
        fail()
    assert tree(tmp_path) == {"out.csv": "former"}


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
    with atomic_write(path, HeadError) as temporary_path:
        assert temporary_path.suffix == ".keras"
        write(temporary_path, folder, "new")
        assert path.exists() == former
    assert tree(tmp_path) == {"made.v1.keras" + "/part" * folder: "new"}


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("stop", [OSError("no room"), KeyboardInterrupt(), StoreError("damaged")])
def test_what_is_not_leaves_the_former_one(
    folder: bool, stop: BaseException, tmp_path: Path
) -> None:
    path = tmp_path / "made"
    write(path, folder, "old")
    before = tree(tmp_path)
    kind = HeadError if type(stop) is OSError else type(stop)

    def fail() -> None:
        with atomic_write(path, HeadError) as temporary_path:
            write(temporary_path, folder, "half")
            raise stop

    with pytest.raises(kind) as raised:
        fail()
    if kind is HeadError:
        assert str(raised.value) == f"{path}: cannot be written: no room"
    else:
        assert raised.value is stop  # it says for itself what is wrong
    assert tree(tmp_path) == before


def test_a_link_stays_and_a_file_is_no_folders_successor(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    write(tmp_path / "kept" / "file", False, "old")
    (tmp_path / "link").symlink_to(tmp_path / "kept" / "file")
    with atomic_write(tmp_path / "link", HeadError) as temporary_path:
        temporary_path.write_text("new")
    assert (tmp_path / "link").is_symlink()
    with pytest.raises(HeadError), atomic_write(tmp_path / "kept", HeadError) as temporary_path:
        temporary_path.write_text("a file in the place of a folder")
    assert tree(tmp_path / "kept") == {"file": "new"}


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("former", [False, True])
def test_a_cache_entry_is_replaced_as_a_whole(folder: bool, former: bool, tmp_path: Path) -> None:
    path = tmp_path / "cache" / "entry"
    if former:
        path.parent.mkdir()
        write(path, folder, "damaged")

    def fail() -> None:
        with cache_write(path) as temporary:
            write(temporary, folder, "half")
            raise OSError("no room")

    before = tree(tmp_path)
    with pytest.raises(OSError, match="no room"):
        fail()
    assert tree(tmp_path) == before
    with cache_write(path) as temporary:
        write(temporary, folder, "new")
    assert tree(tmp_path) == {"cache/entry" + "/part" * folder: "new"}


def test_two_writers_of_a_cache_entry_do_not_collide(tmp_path: Path) -> None:
    with cache_write(tmp_path / "entry") as mine, cache_write(tmp_path / "entry") as other:
        assert mine != other
        write(mine, True, "same")
        write(other, True, "same")
    assert tree(tmp_path) == {"entry/part": "same"}


def test_a_cache_removes_only_what_writers_of_a_cache_have_left(tmp_path: Path) -> None:
    leftover, others = tmp_path / f".{'0f' * 16}.new", tmp_path / ".ssh"
    for folder in (leftover, others):
        write(folder, True, "old")
        os.utime(folder, (0, 0))
    with cache_write(tmp_path / "entry") as temporary:
        write(temporary, False, "new")
    assert tree(tmp_path) == {"entry": "new", ".ssh/part": "old"}


def test_a_link_to_itself_is_a_place_to_write(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop.name)
    with locked(loop, HeadError, "train-head"), atomic_write(loop, HeadError) as made:
        made.write_text("whole")
    assert tree(tmp_path) == {"loop": "whole"}
