"""Pictures with labels in folders and tar shards: what is listed, and every mistake."""

import gzip
import io
import os
import tarfile

import pytest

from selfflow_robotics.data.images import list_images, read_item
from selfflow_robotics.data.shapes import SHAPES, draw_shape, ensure_shapes
from selfflow_robotics.data.skips import Skips, check_budget
from selfflow_robotics.errors import UserError
from selfflow_robotics.rng import numpy_generator
from tests.pictures import picture_bytes, samples, write_folder, write_tar


def test_a_folder_of_classes(tmp_path):
    root = write_folder(tmp_path / "set", {"b": 2, "a": 1, "empty": 0})
    (root / "b" / "deep").mkdir()
    (root / "b" / "deep" / "x.JPEG").write_bytes(picture_bytes(7, "jpg"))
    (root / "b" / "readme.txt").write_text("not listed")
    (root / ".hidden").mkdir()
    images = list_images(root)
    assert images.class_names == ["a", "b"]
    assert images.num_classes == 2
    assert images.empty == ["empty"]
    named = [(item.name, item.label) for item in images.items]
    assert named == [("a/002.png", 0), ("b/000.png", 1), ("b/001.png", 1), ("b/deep/x.JPEG", 1)]
    assert read_item(root, images.items[0]) == picture_bytes(2)


def test_links_are_followed(tmp_path):
    root = write_folder(tmp_path / "elsewhere", {"a": 1})
    (tmp_path / "set" / "b").mkdir(parents=True)
    (tmp_path / "set" / "a").symlink_to(root / "a")
    (tmp_path / "set" / "b" / "linked.png").symlink_to(root / "a" / "000.png")
    (tmp_path / "set" / "b" / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    images = list_images(tmp_path / "set")
    assert [item.name for item in images.items] == ["a/000.png", "b/dangling.png", "b/linked.png"]
    assert read_item(images.root, images.items[2]) == picture_bytes(0)
    with pytest.raises(OSError, match="No such file"):
        read_item(images.root, images.items[1])


@pytest.mark.parametrize("name", ["a/f.png", "f.png"])
def test_a_pipe_is_no_picture_and_is_not_waited_for(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    os.mkfifo(tmp_path / name)
    (item,) = list_images(tmp_path).items
    with pytest.raises(OSError, match=r"f\.png .*regular file"):
        read_item(tmp_path, item)


def test_a_flat_folder_has_label_zero(tmp_path):
    for number in (1, 0):
        (tmp_path / f"{number}.png").write_bytes(picture_bytes(number))
    (tmp_path / "notes").mkdir()
    images = list_images(tmp_path)
    assert [(item.name, item.label) for item in images.items] == [("0.png", 0), ("1.png", 0)]
    assert (images.kind, images.num_classes) == ("flat", 1)


def test_tar_shards_by_folder_pattern_and_name(tmp_path):
    write_tar(tmp_path / "s-1.tar", samples(range(4, 6)))
    one = write_tar(tmp_path / "s-0.tar", samples(range(4)))
    images = list_images(tmp_path)
    assert [item.label for item in images.items] == [0, 1, 2, 0, 1, 2]
    assert images.items[0].name == "s-0.tar/0000.jpg"
    assert [read_item(images.root, item) for item in images.items] == [
        picture_bytes(number, "jpg") for number in range(6)
    ]
    assert list_images(f"{tmp_path}/s-*.tar").items == images.items
    assert list_images(one).items == images.items[:4]
    assert images.num_classes == 3


def test_keys_have_folders_and_samples_further_fields(tmp_path):
    files = {
        "./x/a.b.txt": b"other", "./x/a.cls": b"1", "./x/a.PNG": picture_bytes(0),
        "./y/a.cls": b" 2 ", "./y/a.seg.png": picture_bytes(1), "./y/a.jpeg": picture_bytes(2),
        "README": b"not a sample", "long/" * 60 + "k.png": picture_bytes(3),
        "long/" * 60 + "k.cls": b"0",
    }  # fmt: skip
    images = list_images(write_tar(tmp_path / "a.tar", files))
    assert [item.label for item in images.items] == [1, 2, 0]
    assert images.items[2].member.endswith("long/k.png")
    assert images.skips.total == 0
    assert images.others == {".txt": 1, ".seg.png": 1, "without extension": 1}


def add(tar, name, data=b"", kind=tarfile.REGTYPE, target=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, target, len(data)
    tar.addfile(member, io.BytesIO(data))


def test_dotted_names_are_read(tmp_path):
    one, two = picture_bytes(1), picture_bytes(2)
    files = {
        "a.v2.png": one, "a.v2.cls": b"1", "b.png": two, "b.cls": b"0", "b.v2.png": one,
        "b.v2.cls": b"2", "v1.0/x.y.z.png": two, "v1.0/x.y.z.cls": b"+1.0",
    }  # fmt: skip
    images = list_images(write_tar(tmp_path / "t.tar", files))
    assert [(item.member, item.label) for item in images.items] == [
        ("a.v2.png", 1), ("b.png", 0), ("b.v2.png", 2), ("v1.0/x.y.z.png", 1),
    ]  # fmt: skip
    assert images.skips.total == sum(images.others.values()) == 0


def test_a_dotted_picture_without_label_is_counted(tmp_path):
    files = {"c.v2.png": b"x", "d.v2.cls": b"1", "e.v2.png": b"x", "e.cls": b"0"} | samples(
        range(1)
    )
    images = list_images(write_tar(tmp_path / "t.tar", files))
    assert images.skips.counts == {"no label": 1, "no single image": 2}


def test_files_of_a_key_need_not_lie_side_by_side(tmp_path):
    files = samples(range(6))
    apart = dict(sorted(files.items(), key=lambda pair: pair[0].endswith("cls")))
    images = list_images(write_tar(tmp_path / "t.tar", apart))
    assert [item.label for item in images.items] == [0, 1, 2, 0, 1, 2]
    assert images.skips.total == 0


def test_of_one_name_the_last_counts_and_the_others_are_counted(tmp_path):
    tar = write_tar(tmp_path / "t.tar", samples(range(2)) | {"notes.txt": b"x"})
    with tarfile.open(tar, "a") as again:
        add(again, "0000.jpg", picture_bytes(7, "jpg"))
        add(again, "0000.cls", b"5")
        add(again, "notes.txt", b"y")
    images = list_images(tar)
    assert [item.label for item in images.items] == [5, 1]
    assert read_item(tmp_path, images.items[0]) == picture_bytes(7, "jpg")
    assert images.skips.total == 2
    assert images.others == {".txt": 1, "replaced": 1}


def test_hard_links_are_the_files_they_name_and_the_rest_is_counted(tmp_path):
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        add(tar, "folder", kind=tarfile.DIRTYPE)
        add(tar, "a.png", picture_bytes(1))
        add(tar, "a.cls", b"3")
        add(tar, "b.png", kind=tarfile.LNKTYPE, target="a.png")
        add(tar, "b.cls", kind=tarfile.LNKTYPE, target="a.cls")
        add(tar, "c.png", kind=tarfile.LNKTYPE, target="nothing")
        add(tar, "d.png", kind=tarfile.SYMTYPE, target="a.png")
        add(tar, "e.png", kind=tarfile.FIFOTYPE)
        add(tar, "latest", kind=tarfile.SYMTYPE, target="a.png")
        add(tar, "._a.png", b"hidden")
    images = list_images(tmp_path / "t.tar")
    assert [(item.member, item.label) for item in images.items] == [("a.png", 3), ("b.png", 3)]
    assert read_item(tmp_path, images.items[1]) == picture_bytes(1)
    assert images.skips.counts == {"link to nothing": 1, "no regular file": 1, "symbolic link": 1}
    assert images.others == {"symbolic link": 1, "hidden": 1}


def test_a_sparse_picture_is_counted(tmp_path):
    header = {"GNU.sparse.map": "0,4", "GNU.sparse.size": "4096"}
    with tarfile.open(tmp_path / "t.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("a.png")
        member.size, member.pax_headers = 4, header
        tar.addfile(member, io.BytesIO(b"data"))
        for name, data in samples(range(1)).items():
            add(tar, name, data)
    images = list_images(tmp_path / "t.tar")
    assert (len(images.items), images.skips.counts) == (1, {"sparse file": 1})


def test_joined_tars_are_refused(tmp_path):
    one = write_tar(tmp_path / "one.tar", samples(range(2))).read_bytes()
    two = write_tar(tmp_path / "two.tar", samples(range(2, 4))).read_bytes()
    (tmp_path / "joined").mkdir()
    (tmp_path / "joined" / "j.tar").write_bytes(one + two)
    with pytest.raises(UserError, match="several tars in one file"):
        list_images(tmp_path / "joined")
    (tmp_path / "joined" / "j.tar").write_bytes(one + bytes(1 << 21))
    assert len(list_images(tmp_path / "joined").items) == 2


@pytest.mark.parametrize("name", ["s.tar", "s.tar.gz", "s.tgz"])
def test_compressed_tars_are_told_so(tmp_path, name):
    plain = write_tar(tmp_path / "plain", samples(range(2))).read_bytes()
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / name).write_bytes(gzip.compress(plain))
    for source in (tmp_path / "s", tmp_path / "s" / name):
        with pytest.raises(UserError, match=r"compressed.*\.tar"):
            list_images(source)


def long_name(size):
    """A tar whose first header announces a name of so many bytes."""
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, size
    return member.tobuf(tarfile.GNU_FORMAT) + bytes(2048)


def chained_names(count):
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 1
    return (member.tobuf(tarfile.GNU_FORMAT) + b"x" + bytes(511)) * count


def negative_size():
    member = tarfile.TarInfo("a.png")
    member.size = -1024
    return bytes(member.tobuf(tarfile.GNU_FORMAT)) + bytes(4096)


def pax_size(value):
    record = f" size={value}\n"
    record = f"{len(record) + 2}{record}".encode()
    member = tarfile.TarInfo("pax")
    member.type, member.size = tarfile.XHDTYPE, len(record)
    file = tarfile.TarInfo("a.png").tobuf()
    return member.tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0") + file + bytes(4096)


@pytest.mark.parametrize(
    "content",
    [
        long_name(1 << 36),
        long_name(-512),
        chained_names(5000),
        negative_size(),
        pax_size(-512),
        pax_size(10**40),
        b"x" * 10240,
    ],
)
def test_a_crafted_tar_is_one_line(tmp_path, content):
    (tmp_path / "t.tar").write_bytes(content)
    with pytest.raises(UserError, match=r"t\.tar is ") as error:
        list_images(tmp_path / "t.tar")
    assert "\n" not in str(error.value)


def test_a_name_of_strange_bytes_is_one_line(tmp_path):
    files = {"a\nb\udcff.png": picture_bytes(0), "c.\x1b[2J": b""} | samples(range(1))
    images = list_images(write_tar(tmp_path / "t.tar", files))
    lines = [images.skips.examples["no label"], *images.notes()]
    assert all(line.isprintable() and line.encode() for line in lines)


def test_classes_without_pictures_are_named(tmp_path):
    root = write_folder(tmp_path / "set", {"cat": 1, "__MACOSX": 0, "logs": 0})
    (root / "logs" / "log.txt").write_text("x")
    (note,) = list_images(root).notes()
    assert "__MACOSX, logs" in note
    files = {"a.png": picture_bytes(0), "a.cls": b"1", "b.png": picture_bytes(1), "b.cls": b"4"}
    images = list_images(write_tar(tmp_path / "t.tar", files))
    assert (images.num_classes, images.labels) == (5, {1, 4})
    (note,) = images.notes()
    assert "3 of 5" in note
    assert "0, 2, 3" in note
    assert list_images(write_folder(tmp_path / "whole", {"a": 1, "b": 1})).notes() == []


def test_samples_without_a_label_or_picture_are_counted(tmp_path):
    files = samples(range(3)) | {
        "a.jpg": b"", "b.cls": b"1", "c.jpg": b"", "c.png": b"", "c.cls": b"0",
        "d.jpg": b"", "d.cls": b"cat", "e.jpg": b"", "e.cls": b"-1", "f.png": b"",
        "f.cls": b"1" * 9, "g.png": b"", "g.cls": b"100000",
    }  # fmt: skip
    images = list_images(write_tar(tmp_path / "t.tar", files))
    assert len(images.items) == 3
    assert images.skips.record() == {
        "bad label": {"count": 4, "example": "t.tar/d"},
        "no label": {"count": 1, "example": "t.tar/a"},
        "no single image": {"count": 2, "example": "t.tar/b"},
    }
    assert images.num_found == 10


@pytest.mark.parametrize("cut", [0, 100, 700, 5000, 9000, "between two files"])
def test_a_cut_tar_is_named(tmp_path, cut):
    tar = write_tar(tmp_path / "cut.tar", samples(range(6)))
    if isinstance(cut, str):
        with tarfile.open(tar) as whole:
            cut = whole.getmembers()[6].offset
    tar.write_bytes(tar.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"cut\.tar .*copy it again"):
        list_images(tar)


@pytest.mark.parametrize("place", [0, 1])
def test_a_tar_with_a_damaged_header_is_named(tmp_path, place):
    tar = write_tar(tmp_path / "bad.tar", samples(range(2)))
    data = bytearray(tar.read_bytes())
    data[data.index(b"0000.cls") if place else 0] ^= 0xFF
    tar.write_bytes(data)
    with pytest.raises(UserError, match=r"bad\.tar .*copy it again"):
        list_images(tar)


def test_places_without_pictures_are_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.txt").write_text("")
    write_tar(tmp_path / "none.tar", {"readme.txt": b""})
    for source, message in [
        ("nowhere", "does not exist"),
        ("x/*.tar", "does not exist"),
        ("empty", "no images in"),
        ("list.txt", "neither a folder nor a .tar file"),
        ("none.tar", "no images in the tar files"),
    ]:
        with pytest.raises(UserError, match=message):
            list_images(tmp_path / source)


def test_a_folder_that_cannot_be_read_is_no_empty_one(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "set", {"a": 1, "b": 1})
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"cannot read .*set/b \(Permission denied\)"):
        list_images(root)


def test_a_mixture_is_ambiguous(tmp_path):
    write_folder(tmp_path, {"a": 1})
    (tmp_path / "loose.png").write_bytes(picture_bytes(0))
    with pytest.raises(UserError, match="mixes loose images and folders of images"):
        list_images(tmp_path)
    (tmp_path / "loose.png").unlink()
    write_tar(tmp_path / "a.tar", samples(range(1)))
    with pytest.raises(UserError, match="mixes tars and folders of images"):
        list_images(tmp_path)


def test_the_fingerprint_is_of_names_sizes_and_labels(tmp_path):
    prints = {
        list_images(write_folder(tmp_path / name, classes)).fingerprint()
        for name, classes in [("one", {"a": 2, "b": 1}), ("two", {"a": 2, "b": 1})]
    }
    assert len(prints) == 1
    (tmp_path / "two" / "b" / "002.png").write_bytes(picture_bytes(9, size=(30, 30)))
    prints.add(list_images(tmp_path / "two").fingerprint())
    (tmp_path / "one" / "b").rename(tmp_path / "one" / "c")
    prints.add(list_images(tmp_path / "one").fingerprint())
    assert len(prints) == 3


def test_the_budget_of_skipped_pictures():
    skips = Skips()
    skips.add("no label", "x")
    check_budget(skips, 10, 0.001)  # one always may
    with pytest.raises(UserError, match=r"1 of 10 .* 1 no label \(e\.g\. x\)"):
        check_budget(skips, 10, 0.0)
    with pytest.raises(UserError, match="1 of 1 images"):  # something must be left
        check_budget(skips, 1, 0.5)
    skips.add("too large", "y")
    check_budget(skips, 2000, 0.001)
    message = r"2 of 1999 .* allows only 1: 1 no label \(e\.g\. x\); 1 too large \(e\.g\. y\); "
    with pytest.raises(UserError, match=message):
        check_budget(skips, 1999, 0.001)


def test_shapes_are_drawn_once_and_are_a_function_of_the_seed(tmp_path):
    folder = ensure_shapes(tmp_path, 9, 32)
    images = list_images(folder)
    assert images.class_names == list(SHAPES)
    assert [item.label for item in images.items] == [0, 0, 0, 1, 1, 2, 2, 3, 3]
    before = (folder / "circle" / "000000.png").stat().st_mtime_ns
    assert ensure_shapes(tmp_path, 9, 32) == folder
    assert (folder / "circle" / "000000.png").stat().st_mtime_ns == before
    for shape in SHAPES:
        one, again, other = (
            draw_shape(shape, 32, numpy_generator("test", 0, n)) for n in (1, 1, 2)
        )
        assert one.shape == (32, 32, 3)
        assert (one == again).all()
        assert (one != other).any()
    with pytest.raises(UserError, match="at least 4 images"):
        ensure_shapes(tmp_path, 3, 32)
    with pytest.raises(UserError, match="cannot write"):
        ensure_shapes(tmp_path / "folder" / ("x" * 300), 9, 32)
