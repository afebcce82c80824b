"""The store: built once, found again, never stale, never half there."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fedsim.data.building
import fedsim.data.images
from fedsim.data.building import fingerprint, group_codes, new_folder
from fedsim.data.folder import Folder
from fedsim.data.store import Dataset, Embedded, Manifest, Store, prepare
from fedsim.errors import InputError, RunError


def stripes(size: int, *, images: int = 6, seed: int = 0, shape: str = "binary") -> Embedded:
    rng = np.random.default_rng(seed)
    if images < 2:
        raise ValueError(f"images must be 2 or more, not {images}.")
    return Embedded(
        images=rng.integers(0, 256, (images, size, size, 3), dtype=np.uint8),
        labels=np.arange(images) % 2,
        groups=[""] * images,
        sites=["b", "a"] * (images // 2),
        classes=("no", "yes") if shape == "binary" else ("x", "y"),
    )


stripes.version = 1


class Stripes(Dataset):
    classes = ("no", "yes")
    embedded = stripes

    def __init__(self, shape: str = "binary") -> None:
        self.shape = shape

    def manifest(self, root: Path) -> Manifest:
        raise AssertionError("the stand-in has no manifest")


@pytest.fixture
def root(tmp_path) -> Path:
    """24 small JPEGs in two class folders."""
    rng = np.random.default_rng(0)
    for i in range(24):
        file = tmp_path / "root" / ("cat", "dog")[i % 2] / f"{i:02}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (20, 26, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
    return tmp_path / "root"


def prepared(root: Path | None, cache: Path, dataset: Dataset | None = None, **options) -> Store:
    options = {"size": 8, "embedded": {}, "skip_bad": False, **options}
    return prepare(dataset or Folder(), name="pets", root=root, cache=cache, **options)


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """The names of the files that were decoded."""
    names: list[str] = []
    read = fedsim.data.images.read_image

    def counted(path, size):
        names.append(Path(path).name)
        return read(path, size)

    monkeypatch.setattr(fedsim.data.images, "read_image", counted)
    return names


def test_a_store_holds_the_records_in_manifest_order(root, tmp_path):
    store = prepared(root, tmp_path / "cache")
    assert isinstance(store.images, np.memmap)
    assert store.images.shape == (24, 8, 8, 3)
    assert store.images.dtype == np.uint8
    assert not store.images.flags.writeable
    assert store.labels.tolist() == [0] * 12 + [1] * 12
    assert store.labels.dtype == store.groups.dtype == store.sites.dtype == np.int64
    assert store.classes == ("cat", "dog")
    assert store.site_names == ("site-0",)
    assert store.ids[0] == "cat/00.jpg"
    assert len(set(store.groups.tolist())) == 24
    assert (store.source, store.root, store.skipped) == ("path", str(root), ())
    expected = fedsim.data.images.read_image(root / "dog" / "01.jpg", 8)
    assert (store.images[12] == expected).all()


def test_an_opened_store_equals_the_prepared_one(root, tmp_path):
    store = prepared(root, tmp_path / "cache")
    again = Store.open(str(store.folder))
    assert again.fingerprint == store.fingerprint
    assert re.fullmatch("[0-9a-f]{64}", store.fingerprint)
    assert (again.images == store.images).all()
    assert again.ids == store.ids
    assert len(again) == 24


def test_the_second_run_decodes_nothing(root, tmp_path, decoded):
    first = prepared(root, tmp_path / "cache")
    assert len(decoded) == 24
    second = prepared(root, tmp_path / "cache")
    assert len(decoded) == 24
    assert second.folder == first.folder


def test_processes_give_the_same_store(root, tmp_path, monkeypatch):
    monkeypatch.setattr(fedsim.data.images, "_SPAN", 5)
    alone = prepared(root, tmp_path / "a")
    together = prepared(root, tmp_path / "b", workers=2)
    assert together.fingerprint == alone.fingerprint
    assert together.folder.name == alone.folder.name


@pytest.mark.parametrize(
    "change", ["bytes", "in place", "swapped", "time", "size", "format", "label", "more", "fewer"]
)
def test_what_the_content_depends_on_makes_another_store(
    root, tmp_path, decoded, monkeypatch, change
):
    file = root / "cat" / "00.bmp"  # Files of one kind and size, from one archive: of one time.
    for name, shade in (("00.bmp", 1), ("01.bmp", 200)):
        Image.linear_gradient("L").point(lambda x, s=shade: x ^ s).save(root / "cat" / name)
        os.utime(root / "cat" / name, ns=(0, 1_000_000_000))
    first = prepared(root, tmp_path / "cache")
    options = {}
    if change == "in place":  # As an editor that keeps the time, or rsync.
        content = file.read_bytes()
        file.write_bytes(content[:-9000] + b"\x99" * 9000)
        os.utime(file, ns=(0, 1_000_000_000))
    elif change == "swapped":
        file.rename(root / "aside")
        (root / "cat" / "01.bmp").rename(file)
        (root / "aside").rename(root / "cat" / "01.bmp")
    elif change == "bytes":
        Image.new("RGB", (20, 20), (9, 9, 9)).save(file)
    elif change == "time":
        os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    elif change == "size":
        options["size"] = 9
    elif change == "format":
        monkeypatch.setattr("fedsim.data.store.FORMAT", 2)
    elif change == "label":
        options["dataset"] = Folder(classes=["dog", "cat"])
    elif change == "more":
        Image.new("RGB", (20, 20)).save(root / "cat" / "zz.jpg")
    else:
        file.unlink()
    decoded.clear()
    second = prepared(root, tmp_path / "cache", **options)
    assert decoded
    assert second.folder != first.folder
    same_content = change in ("time", "format")
    assert (second.fingerprint == first.fingerprint) == same_content


def test_labels_groups_and_sites_are_in_the_fingerprint(tmp_path, monkeypatch):
    plain = stripes(8)
    changes = (
        {},
        {"labels": 1 - plain.labels},
        {"groups": ["p"] * 6},
        {"sites": plain.sites[::-1]},
        {"images": plain.images[::-1]},
    )
    found = set()
    for number, change in enumerate(changes):
        made = replace(plain, **change)
        monkeypatch.setattr(Stripes, "embedded", staticmethod(lambda size, made=made: made))
        found.add(prepared(None, tmp_path / str(number), Stripes()).fingerprint)
    assert len(found) == len(changes)


def test_a_moved_root_finds_its_store_and_names_the_new_place(root, tmp_path, decoded):
    prepared(root, tmp_path / "cache")
    root.rename(tmp_path / "moved")
    decoded.clear()
    assert prepared(tmp_path / "moved", tmp_path / "cache").root == str(tmp_path / "moved")
    assert not decoded


def damage(root: Path) -> None:
    whole = (root / "cat" / "00.jpg").read_bytes()
    (root / "cat" / "00.jpg").write_bytes(whole[:-60])
    (root / "dog" / "01.jpg").write_bytes(b"")


@pytest.mark.parametrize("workers", [1, 2])
def test_broken_images_are_refused_by_name(root, tmp_path, monkeypatch, workers):
    monkeypatch.setattr(fedsim.data.images, "_SPAN", 5)
    damage(root)
    with pytest.raises(InputError) as caught:
        prepared(root, tmp_path / "cache", workers=workers)
    text = str(caught.value)
    assert "2 of 24 images of 'pets' cannot be read" in text
    assert "cat/00.jpg: image file is truncated" in text
    assert "dog/01.jpg" in text
    assert "data.skip_bad=true" in caught.value.hint
    assert not list((tmp_path / "cache").iterdir())


def test_broken_images_are_left_out_on_request(root, tmp_path, decoded):
    damage(root)
    store = prepared(root, tmp_path / "cache", skip_bad=True)
    assert store.images.shape == (22, 8, 8, 3)
    assert store.labels.tolist() == [0] * 11 + [1] * 11
    assert store.ids[0] == "cat/02.jpg"
    assert [line.split(":")[0] for line in store.skipped] == ["cat/00.jpg", "dog/01.jpg"]
    expected = fedsim.data.images.read_image(root / "dog" / "23.jpg", 8)
    assert (store.images[-1] == expected).all()
    decoded.clear()
    assert prepared(root, tmp_path / "cache", skip_bad=True).skipped == store.skipped
    assert not decoded


def test_a_store_with_images_left_out_does_not_serve_who_wants_all(root, tmp_path):
    damage(root)
    prepared(root, tmp_path / "cache", skip_bad=True)
    with pytest.raises(InputError, match="cannot be read"):
        prepared(root, tmp_path / "cache")


def test_a_clean_store_serves_with_and_without_skipping(root, tmp_path, decoded):
    prepared(root, tmp_path / "cache", skip_bad=True)
    decoded.clear()
    prepared(root, tmp_path / "cache")
    assert not decoded


def test_only_the_first_ten_broken_images_are_listed(root, tmp_path):
    for file in list(root.rglob("*.jpg"))[:13]:
        file.write_bytes(b"broken")
    with pytest.raises(InputError) as caught:
        prepared(root, tmp_path / "cache")
    assert "13 of 24 images of 'pets' cannot be read; the first 10:" in str(caught.value)
    assert len(caught.value.problems) == 10


def test_nothing_but_broken_images_is_refused_even_when_skipping(root, tmp_path):
    for file in root.rglob("*.jpg"):
        file.write_bytes(b"broken")
    with pytest.raises(InputError, match="24 of 24") as caught:
        prepared(root, tmp_path / "cache", skip_bad=True)
    assert "Expected there: a folder of images for each class" in caught.value.hint


def test_a_file_that_the_system_refuses_is_named(root, tmp_path, monkeypatch):
    read = fedsim.data.images.read_image

    def refuse(path, size):
        if path.endswith("00.jpg"):
            raise PermissionError(13, "Permission denied", path)
        return read(path, size)

    monkeypatch.setattr(fedsim.data.images, "read_image", refuse)
    with pytest.raises(InputError, match=r"cat/00\.jpg: Permission denied"):
        prepared(root, tmp_path / "cache")


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_text(""), "is not a folder"),
        (lambda path: path.mkdir(), "is empty"),
    ],
)
def test_a_wrong_root_is_named_with_what_belongs_there(tmp_path, make, wrong):
    make(tmp_path / "data")
    with pytest.raises(InputError) as caught:
        prepared(tmp_path / "data", tmp_path / "cache")
    (problem,) = caught.value.problems
    assert problem.where == str(tmp_path / "data")
    assert wrong in problem.message
    assert Folder.layout in problem.message


def test_a_data_set_without_a_stand_in_needs_a_root(tmp_path):
    with pytest.raises(InputError, match=r"data\.root.*not given"):
        prepared(None, tmp_path / "cache")


def test_an_interrupted_build_leaves_nothing_and_the_next_succeeds(root, tmp_path, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("fedsim.data.store.write_records", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepared(root, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
    assert len(prepared(root, tmp_path / "cache")) == 24


def test_a_killed_build_is_not_taken_for_a_store(root, tmp_path):
    store = prepared(root, tmp_path / "cache")
    stale = tmp_path / "cache" / ".building-1-00000000"
    store.folder.rename(stale)
    (stale / "store.json").unlink()
    assert len(prepared(root, tmp_path / "cache")) == 24


def prepare_in_process(root: Path, cache: Path, barrier, queue) -> None:
    publish = fedsim.data.building.publish

    def meet_then_publish(*arguments) -> None:
        barrier.wait(30)
        publish(*arguments)

    fedsim.data.store.publish = meet_then_publish
    queue.put(prepared(root, cache).fingerprint)


def test_a_killed_preparation_leaves_no_process_and_the_next_removes_its_folder(root, tmp_path):
    cache = tmp_path / "cache"
    code = (
        "import sys, time\nimport fedsim.data.images as images\n"
        "from pathlib import Path\nfrom fedsim.data.folder import Folder\n"
        "from fedsim.data.store import prepare\n"
        "images._SPAN = 1\nimages.read_image = lambda *_: time.sleep(600)\n"
        "prepare(Folder(), name='x', root=Path(sys.argv[1]), size=8, embedded={}, skip_bad=False, "
        "cache=Path(sys.argv[2]), workers=2)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(root), str(cache)])
    try:
        workers: list[int] = []
        until = time.monotonic() + 120
        while len(workers) < 2 and time.monotonic() < until:
            workers = children(parent.pid)
        assert len(workers) == 2
        (unfinished,) = cache.glob(".building-*")
        with new_folder(cache):
            pass
        assert unfinished.is_dir(), "one that is being filled stays"
    finally:
        parent.kill()
        parent.wait()
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < until + 60, "workers outlive their parent"
    assert unfinished.is_dir()
    with new_folder(cache) as folder:
        assert list(cache.glob(".building-*")) == [folder]
    assert not list(cache.glob(".building-*"))


def children(process: int) -> list[int]:
    """The processes that a process started."""
    try:
        return [
            int(c) for c in Path(f"/proc/{process}/task/{process}/children").read_text().split()
        ]
    except OSError:
        return []


def test_a_pipe_among_the_images_is_refused_and_not_waited_for(root, tmp_path):
    (root / "cat" / "00.jpg").unlink()
    os.mkfifo(root / "cat" / "00.jpg")
    with pytest.raises(OSError, match="a pipe, a device or a socket"):
        fedsim.data.images.read_image(root / "cat" / "00.jpg", 8)
    with pytest.raises(InputError, match="1 of 24 images of 'pets' cannot be read"):
        prepared(root, tmp_path / "cache")
    assert len(prepared(root, tmp_path / "cache", skip_bad=True)) == 23


def test_two_processes_that_build_the_same_store_both_succeed(root, tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(2), context.Queue()
    both = [
        context.Process(target=prepare_in_process, args=(root, tmp_path / "cache", barrier, queue))
        for _ in range(2)
    ]
    for process in both:
        process.start()
    fingerprints = {queue.get(timeout=60) for _ in both}
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert len(fingerprints) == 1
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_cache_that_cannot_be_written_is_named(root, tmp_path):
    (tmp_path / "cache").write_text("a file in the way")
    with pytest.raises(RunError, match=str(tmp_path / "cache")):
        prepared(root, tmp_path / "cache" / "below")
    with pytest.raises(RunError, match="File name too long"):
        prepared(root, tmp_path / ("x" * 300))


def test_a_full_disk_is_said_before_decoding(root, tmp_path, monkeypatch, decoded):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RunError, match="No space left on device"):
        prepared(root, tmp_path / "cache")
    assert not decoded
    assert not list((tmp_path / "cache").iterdir())


def flip(path: Path, place: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 1
    path.write_bytes(data)


def resave(path: Path, change) -> None:
    np.save(path, change(np.load(path)))


FILES = ("images.npy", "labels.npy", "groups.npy", "sites.npy", "digests.npy", "store.json")


def device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")  # It has no end.


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)  # Nobody writes into it.


def unended(path: Path) -> None:
    # NumPy reads the header of an array as Python, which here never closes its brackets.
    path.write_bytes(path.read_bytes().replace(b"}", b" ", 1))


DAMAGES = {
    "unended": unended,
    "device": device,
    "pipe": pipe,
    "empty": lambda path: path.write_bytes(b""),
    "short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "long": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "gone": lambda path: path.unlink(),
    "other": lambda path: path.write_bytes(b"something else"),
    "first": lambda path: flip(path, 0),
    "middle": lambda path: flip(path, 0.5),
    "last": lambda path: flip(path, 1),
}
CONTENT = {
    "dtype": ("labels.npy", lambda array: array.astype(np.int32)),
    "big-endian": ("sites.npy", lambda array: array.astype(">i8")),
    "range": ("labels.npy", lambda array: array + 5),
    "negative": ("sites.npy", lambda array: array - 9),
    "swapped": ("labels.npy", lambda array: 1 - array),
    "merged": ("groups.npy", lambda array: array * 0),
    "fewer": ("labels.npy", lambda array: array[:-1]),
    "pixels": ("images.npy", lambda array: array[::-1]),
    "floats": ("images.npy", lambda array: array.astype(np.float32)),
    "objects": ("labels.npy", lambda array: array.astype(object)),
}
ALL = [(name, damage) for name in FILES for damage in DAMAGES.values()]
ALL += [(name, lambda path, one=one: resave(path, one)) for name, one in CONTENT.values()]
IDS = [f"{name}-{what}" for name in FILES for what in DAMAGES] + list(CONTENT)


@pytest.mark.parametrize(("name", "damage"), ALL, ids=IDS)
@pytest.mark.parametrize("kind", ["files", "stand-in"])
def test_damaged_data_are_found_and_prepared_again(
    root, tmp_path, decoded, caplog, name, damage, kind
):
    source = (root, None) if kind == "files" else (None, Stripes())
    store = prepared(source[0], tmp_path / "cache", source[1])
    images = np.array(store.images)
    damage(store.folder / name)
    with pytest.raises(InputError, match=str(store.folder)) as caught:
        Store.open(store.folder)
    assert "delete this folder" in caught.value.hint
    decoded.clear()
    again = prepared(source[0], tmp_path / "cache", source[1])
    assert bool(decoded) == (kind == "files")
    (record,) = caplog.records
    assert f"prepared data in {store.folder} are damaged" in record.getMessage()
    assert again.folder == store.folder
    assert again.fingerprint == store.fingerprint
    assert np.array_equal(again.images, images)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [store.folder.name]
    caplog.clear()
    prepared(source[0], tmp_path / "cache", source[1])
    assert not caplog.records


@pytest.mark.parametrize("key", ["ids", "classes", "site_names", "fingerprint", "skipped"])
def test_an_edited_description_is_found(root, tmp_path, key):
    store = prepared(root, tmp_path / "cache")
    path = store.folder / "store.json"
    about = json.loads(path.read_text())
    about[key] = about[key][::-1] if key == "fingerprint" else [*about[key], "more"]
    path.write_text(json.dumps(about))
    with pytest.raises(InputError, match="checksum does not hold"):
        Store.open(store.folder)


def test_bytes_that_were_checked_are_not_read_again(root, tmp_path):
    store = prepared(root, tmp_path / "cache")
    flip(store.folder / "images.npy", 1)
    assert len(Store.open(store.folder, checked=True)) == 24
    (store.folder / "images.npy").write_bytes(b"short")
    with pytest.raises(InputError):
        Store.open(store.folder, checked=True)


def test_the_fingerprint_is_of_the_bytes_that_are_there(root, tmp_path):
    store = prepared(root, tmp_path / "cache")
    arrays = {name: getattr(store, name) for name in ("labels", "groups", "sites")}
    again = fingerprint(store.images, arrays, store.classes, store.site_names)
    assert again == store.fingerprint
    other = np.array(store.images)
    other[5, 3, 2, 1] ^= 1
    assert fingerprint(other, arrays, store.classes, store.site_names) != again


def test_no_store_at_all_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        Store.open(tmp_path / "nowhere")


def test_progress_ends_at_the_number_of_files(root, tmp_path):
    seen = []
    prepared(root, tmp_path / "cache", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (24, 24)


def test_names_with_odd_characters_make_a_folder(root, tmp_path):
    store = prepare(
        Folder(),
        name="my.package:Pets/../x",
        root=root,
        size=4,
        embedded={},
        skip_bad=False,
        cache=tmp_path / "cache",
    )
    assert store.folder.parent == tmp_path / "cache"


def test_a_stand_in_is_kept_and_marked(tmp_path):
    store = prepared(None, tmp_path / "cache", Stripes())
    assert (store.source, store.root) == ("embedded", None)
    assert (store.images == stripes(8).images).all()
    assert store.site_names == ("a", "b")
    assert store.sites.tolist() == [1, 0] * 3
    assert store.ids[0] == "pets-000000"
    assert len(set(store.ids)) == 6


def test_a_stand_in_is_generated_once_for_its_parameters(tmp_path, monkeypatch):
    calls = []

    def counted(size: int, *, images: int = 6) -> Embedded:
        calls.append(images)
        return stripes(size, images=images)

    counted.version = 1
    monkeypatch.setattr(Stripes, "embedded", staticmethod(counted))
    for embedded in ({}, {"images": 8}, {"images": 8}, {}):
        prepared(None, tmp_path / "cache", Stripes(), embedded=embedded)
    assert calls == [6, 8]
    prepared(None, tmp_path / "cache", Stripes(), size=9)
    counted.version = 2
    prepared(None, tmp_path / "cache", Stripes())
    assert calls == [6, 8, 6, 6]


def test_what_helps_to_make_a_stand_in_is_no_parameter_of_it(tmp_path, monkeypatch):
    given = []

    def helped(size: int, *, images: int = 6, workers: int = 1, progress=None) -> Embedded:
        given.append(workers)
        progress(images, images, "drawing images")
        return stripes(size, images=images)

    monkeypatch.setattr(Stripes, "embedded", staticmethod(helped))
    told = []
    for workers in (2, 1):
        prepared(
            None, tmp_path, Stripes(), workers=workers, progress=lambda *words: told.append(words)
        )
    assert (given, told) == ([2], [(6, 6, "drawing images")])
    with pytest.raises(InputError, match=r"data\.embedded\.workers: is unknown"):
        prepared(None, tmp_path, Stripes(), embedded={"workers": 2})


def test_parameters_of_the_stand_in_are_ignored_with_a_root(root, tmp_path):
    assert prepared(root, tmp_path / "cache", embedded={"nonsense": 1}).source == "path"


def test_a_stand_in_gets_the_options_of_its_data_set(tmp_path):
    with pytest.raises(InputError, match=r"classes are \('x', 'y'\)"):
        prepared(None, tmp_path / "cache", Stripes(shape="other"))


def test_wrong_parameters_of_the_stand_in_are_all_named(tmp_path):
    with pytest.raises(InputError) as caught:
        prepared(
            None, tmp_path / "cache", Stripes(), embedded={"image": 3, "size": 9, "shape": "x"}
        )
    where = [problem.where for problem in caught.value.problems]
    assert where == ["data.embedded.image", "data.embedded.size", "data.embedded.shape"]
    assert "did you mean 'images'" in str(caught.value)
    with pytest.raises(InputError, match="images must be 2 or more"):
        prepared(None, tmp_path / "cache", Stripes(), embedded={"images": 1})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.array([0, 2])}, "labels from 0 to 2, but there are 2 classes"),
        ({"groups": [""]}, "differ in number"),
        ({"labels": np.array([], dtype=int), "groups": [], "sites": [], "ids": []}, "differ"),
    ],
)
def test_what_a_plugin_gets_wrong_is_said_at_once(root, tmp_path, change, message):
    right = {"labels": np.array([0, 1]), "groups": ["", ""], "sites": ["a", "a"], "ids": ["0", "1"]}

    class Wrong(Stripes):
        def manifest(self, root: Path) -> Manifest:
            return Manifest(paths=sorted(root.rglob("*.jpg"))[:2], **(right | change))

    with pytest.raises(InputError, match=message):
        prepared(root, tmp_path / "cache", Wrong())


def test_empty_groups_are_groups_of_their_own():
    assert group_codes(["a", "", "b", "", "a"]).tolist() == [0, 1, 2, 3, 0]
    assert group_codes([]).dtype == np.int64
