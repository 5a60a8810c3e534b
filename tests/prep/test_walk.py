"""Which files are photos."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from maskprep.errors import UserError
from maskprep.photos.folder import walk


def names(root: Path) -> list[str]:
    return [file.image for file in walk(root).files]


def touch(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")


def test_what_is_ignored_is_counted(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "._a.jpg", ".DS_Store", "Thumbs.db", "notes.txt", "more.TXT", "README", ".hidden/b.jpg")
    found = walk(tmp_path)
    assert [file.image for file in found.files] == ["a.jpg"]
    assert found.ignored == {
        "hidden file": 3,
        "not a photo (.db)": 1,
        "not a photo (.txt)": 2,
        "not a photo (no suffix)": 1,
    }


def test_names(tmp_path: Path) -> None:
    odd = ["UP.JPG", "double.jpg.png", "with space.jpeg", "사진/얼굴.jpg", "😀.png", 'it\'s "q".webp', "new\nline.bmp"]
    touch(tmp_path, *odd, "a.jpg.txt")
    assert names(tmp_path) == sorted(odd)


def test_size_and_time_are_those_of_the_file(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    os.utime(tmp_path / "a.jpg", ns=(5, 1_234_567_890_123_456_789))
    file = walk(tmp_path).files[0]
    assert (file.size, file.mtime_ns, file.broken) == (1, 1_234_567_890_123_456_789, "")


def test_a_folder_named_like_a_photo_is_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "x.jpg/inside.jpg")
    assert names(tmp_path) == ["x.jpg/inside.jpg"]


def test_links(tmp_path: Path) -> None:
    touch(tmp_path, "photos/a.jpg", "photos/sub/b.jpg", "elsewhere/c.jpg", "elsewhere/d.jpg")
    root = tmp_path / "photos"
    (root / "link.jpg").symlink_to(tmp_path / "elsewhere" / "c.jpg")
    (root / "broken.jpg").symlink_to(tmp_path / "gone.jpg")
    (root / "0folder").symlink_to(tmp_path / "elsewhere")
    (root / "1again").symlink_to(root / "sub")
    (root / "sub" / "up").symlink_to(root)
    found = walk(root)
    assert [file.image for file in found.files] == [
        "0folder/c.jpg",
        "0folder/d.jpg",
        "a.jpg",
        "broken.jpg",
        "link.jpg",
        "sub/b.jpg",
    ]
    assert [file.image for file in found.files if file.broken] == ["broken.jpg"]
    assert found.ignored["link to a folder that was already listed"] == 2


def test_a_link_to_itself_is_a_broken_photo_or_nothing(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "loop").symlink_to("loop")
    found = walk(tmp_path)
    assert [(file.image, bool(file.broken)) for file in found.files] == [("a.jpg", False), ("loop.jpg", True)]


@pytest.mark.skipif(os.name != "posix", reason="needs byte file names")
def test_a_name_that_is_not_utf8_is_a_row_with_an_error(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"na\xffme.jpg")).write_bytes(b"x")
    (tmp_path / os.fsdecode(b"x.\xfe")).write_bytes(b"x")
    found = walk(tmp_path)
    assert [file.image for file in found.files] == ["na\\xffme.jpg"]
    assert "UTF-8" in found.files[0].broken
    for text in (*found.ignored, *(file.image for file in found.files)):
        text.encode()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert walk(tmp_path).files[0].broken == "not a regular file"


@pytest.mark.skipif(os.name != "posix", reason="needs paths relative to a folder handle")
@pytest.mark.parametrize("depth", [1200, 2400])
def test_very_deep_folders(tmp_path: Path, depth: int) -> None:
    """Those whose paths are longer than the system takes are passed over and named."""
    handles = [os.open(tmp_path, os.O_RDONLY)]
    for _ in range(depth):
        os.mkdir("d", dir_fd=handles[-1])
        handles.append(os.open("d", os.O_RDONLY, dir_fd=handles[-1]))
        if len(handles) > 2:
            os.close(handles.pop(0))
    here = handles.pop()
    os.close(os.open("a.jpg", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    try:
        found = walk(tmp_path)
        short = depth == 1200
        assert [file.image for file in found.files] == ["d/" * depth + "a.jpg"] * short
        assert [text.lstrip("d/") for text in found.unlisted] == [f" ({os.strerror(errno.ENAMETOOLONG)})"] * (not short)
    finally:  # too deep for shutil.rmtree
        os.unlink("a.jpg", dir_fd=here)
        for _ in range(depth):
            above = os.open("..", os.O_RDONLY, dir_fd=here)
            os.close(here)
            os.rmdir("d", dir_fd=above)
            here = above
        os.close(here)
        os.close(handles.pop())


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a folder"):
        walk(tmp_path / "nowhere")


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENAMETOOLONG, errno.EIO, errno.ESTALE])
def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """It is passed over and named; where its photos would only seem to be gone, everything stops."""
    touch(tmp_path, "a.jpg", "lost+found/b.jpg", "z/c.jpg")
    real = os.scandir

    def fail(folder: str) -> object:
        if os.fspath(folder).endswith(closed):
            raise OSError(number, os.strerror(number), folder)
        return real(folder)

    closed = "lost+found"
    monkeypatch.setattr(os, "scandir", fail)
    if number in (errno.EACCES, errno.ENAMETOOLONG):
        found = walk(tmp_path)
        assert [file.image for file in found.files] == ["a.jpg", "z/c.jpg"]
        assert found.unlisted == [f"lost+found/ ({os.strerror(number)})"]
    else:
        with pytest.raises(UserError, match=r"lost\+found"):
            walk(tmp_path)
    closed = tmp_path.name  # there is nothing without the folder itself
    with pytest.raises(UserError, match="Cannot list"):
        walk(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="needs byte file names")
def test_names_that_look_alike_once_escaped_stay_apart(tmp_path: Path) -> None:
    touch(tmp_path, "caf\\xe9.jpg", "caf\\xe9-2.jpg", "d\\xe9/a.jpg")
    for name in (b"caf\xe9.jpg", b"\xe9\\xe9.jpg", b"\\xe9\xe9.jpg", b"d\xe9/a.jpg"):
        path = tmp_path / os.fsdecode(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    found = walk(tmp_path).files
    assert sorted(file.image for file in found if not file.broken) == ["caf\\xe9-2.jpg", "caf\\xe9.jpg", "d\\xe9/a.jpg"]
    escaped = sorted(file.image for file in found if file.broken)
    assert escaped == ["\\xe9\\xe9-2.jpg", "\\xe9\\xe9.jpg", "caf\\xe9-3.jpg", "d\\xe9/a-2.jpg"]
