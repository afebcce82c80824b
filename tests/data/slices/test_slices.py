"""Complex slices: the layouts of files, sizes, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedsim.data.phantom.brain import brain_stand_in
from fedsim.data.slices.kspace import KSpace, calgary, fastmri, virtual_coil
from fedsim.data.slices.store import fitted
from fedsim.errors import InputError


def image(count: int = 3, height: int = 12, width: int = 12) -> np.ndarray:
    rng = np.random.default_rng(0)
    found = rng.normal(size=(count, height, width, 2)) @ [1, 1j]
    return found.astype(np.complex64)


def transform(images: np.ndarray) -> np.ndarray:
    axes = (-2, -1)
    return np.fft.fftshift(
        np.fft.fft2(np.fft.ifftshift(images, axes=axes), norm="ortho"), axes=axes
    )


def opened(dataset: KSpace, root: Path | None, cache: Path, **more: Any) -> Any:
    options = {"name": "kspace", "size": 16, "embedded": {}, "skip_bad": False}
    return dataset.open(root=root, cache=cache, **(options | more))


def test_fastmri_of_one_coil_and_of_several() -> None:
    truth = image()
    assert np.allclose(fastmri(transform(truth)), truth, atol=1e-5)
    maps = np.array([1.0, 0.5j])[None, :, None, None]
    found = fastmri(transform(truth[:, None] * maps))
    assert np.allclose(np.abs(found), np.sqrt(1.25) * np.abs(truth), atol=1e-4)


def test_rows_sampled_twice_as_densely_are_cut() -> None:
    assert fastmri(transform(image(height=24))).shape == (3, 12, 12)


def test_calgary_is_real_and_imaginary_by_turns() -> None:
    truth = image()
    kspace = np.fft.fft2(truth, norm="ortho")
    pairs = np.stack([kspace.real, kspace.imag], axis=-1)
    assert np.allclose(calgary(pairs), truth, atol=1e-5)


def test_one_coil_stays_as_it_is() -> None:
    assert np.array_equal(virtual_coil(image()[:, None]), image())


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_the_unit_of_k_space_is_of_no_account(size: float) -> None:
    # Products of the coils' numbers are 0, or infinite, in float32.
    maps = np.array([1.0, 0.5j, 0.1])[None, :, None, None]
    coils = (image()[:, None] * maps).astype(np.complex64)
    found = virtual_coil(np.complex64(size) * coils)
    assert np.allclose(np.abs(found) / size, np.abs(virtual_coil(coils)), rtol=1e-4)


def test_numbers_near_the_largest_are_fitted_as_others_are(tmp_path: Path) -> None:
    for name, size in (("small", 1.0), ("large", 2.0**125)):
        slices = (image() * size / np.abs(image()).max()).astype(np.complex64)
        written(tmp_path / name / "one.hdf5", trnOrg=slices)
    found = [
        opened(KSpace(), tmp_path / name, tmp_path / "cache", size=8) for name in ("small", "large")
    ]
    assert np.array_equal(found[0].images, found[1].images)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_coils_that_hold_no_numbers_are_told_as_one_coil_is(wrong: float) -> None:
    coils = np.ones((2, 3, 8, 8), np.complex64)
    coils[1, 2, 3, 4] = wrong
    with pytest.raises(ValueError, match="no finite numbers"):
        virtual_coil(coils)


def test_a_slice_of_another_size_shows_the_same_field_of_view() -> None:
    flat = np.full((12, 12), 2 + 1j, dtype=np.complex64)
    for size in (6, 12, 24):
        assert np.allclose(fitted(flat, size), 2 + 1j, atol=1e-5)
    assert fitted(image(1, 10, 16)[0], 16).shape == (16, 16)


def test_a_folder_of_three_layouts(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    root = tmp_path / "data"
    for site in ("fastmri", "cc359", "modl"):
        (root / site).mkdir(parents=True)
    with h5py.File(root / "fastmri" / "a.h5", "w") as file:
        file["kspace"] = transform(image())
    kspace = np.fft.fft2(image(2), norm="ortho")
    np.save(root / "cc359" / "b.npy", np.stack([kspace.real, kspace.imag], axis=-1))
    with h5py.File(root / "modl" / "dataset.hdf5", "w") as file:
        file["trnOrg"], file["tstOrg"] = image(2), image(1)
    store = opened(KSpace(acceleration=8), root, tmp_path / "cache")
    assert store.images.shape == (8, 2, 16, 16)
    assert store.site_names == ("cc359", "fastmri", "modl")
    assert store.sampling.acceleration == 8
    assert "do not name patients" in store.notes[0]
    again = opened(KSpace(), root, tmp_path / "cache")
    assert again.folder == store.folder
    assert again.fingerprint == store.fingerprint


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    np.save(root / "good.npy", np.ones((1, 8, 8, 2)))
    np.save(root / "bad.npy", np.ones((8, 8)))
    with pytest.raises(InputError, match=r"1 of 2 files .*cannot be used") as caught:
        opened(KSpace(), root, tmp_path / "cache")
    assert "expected k-space of real numbers" in str(caught.value)
    store = opened(KSpace(), root, tmp_path / "cache", skip_bad=True)
    assert len(store) == 1
    assert len(store.skipped) == 1


def written(path: Path, **arrays: Any) -> Path:
    h5py = pytest.importorskip("h5py")
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            if array is None:
                file.create_group(name)
            else:
                file[name] = array
    return path


def test_patients_follow_from_what_a_file_holds_and_not_from_its_ending(tmp_path: Path) -> None:
    root = tmp_path / "data"
    pieces = {"trnOrg": image(2), "tstOrg": image(4)[2:]}
    written(root / "modl" / "a.h5", **pieces)
    named = [written(root / "fastmri" / f"{name}.hdf5", kspace=transform(image())) for name in "bc"]
    # One patient, two files: other slices, so that they are no copies.
    written(named[1], kspace=transform(3 + image()))
    h5py = pytest.importorskip("h5py")
    for path in named:
        with h5py.File(path, "a") as file:
            file.attrs["patient_id"] = "0f3a"
    written(
        root / "cc359" / "d.H5",
        kspace=np.ones((2, 12, 12, 2)) * np.arange(1, 3)[:, None, None, None],
    )
    store = opened(KSpace(), root, tmp_path / "cache")
    count = {
        site: len(set(store.groups[store.sites == code].tolist()))
        for code, site in enumerate(store.site_names)
    }
    assert count == {"cc359": 1, "fastmri": 1, "modl": 4}


def test_files_of_one_stem_have_names_of_their_own(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for ending, shift in ((".h5", 0), (".hdf5", 3)):
        written(root / f"a{ending}", kspace=transform(shift + image()))
    store = opened(KSpace(), root, tmp_path / "cache")
    assert len(set(store.ids)) == 6
    assert len(set(store.groups.tolist())) == 2


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"kspace": None}, "kspace is a group"),
        ({"trnOrg": None}, "trnOrg is a group"),
        ({"image": image()}, "its keys are image"),
        ({}, "its keys are none"),
        ({"kspace": image()[0]}, r"holds k-space \(12, 12\)"),
        ({"kspace": image()[:0]}, r"holds k-space \(0, 12, 12\)"),
        ({"kspace": image() * np.nan}, "no finite numbers"),
        ({"kspace": image(), "mask": np.ones(12)}, "measured in part"),
        ({"trnOrg": image(), "tstOrg": image(3, 12, 10)}, "several sizes"),
        ({"trnOrg": np.ones((2, 8, 8))}, "expected complex slices"),
    ],
)
def test_a_file_of_something_else_is_told(
    tmp_path: Path, arrays: dict[str, Any], words: str
) -> None:
    written(tmp_path / "data" / "a.h5", **arrays)
    with pytest.raises(InputError, match=words):
        opened(KSpace(), tmp_path / "data", tmp_path / "cache")


@pytest.mark.parametrize("content", [b"", b"no array"])
@pytest.mark.parametrize("ending", [".npy", ".h5"])
def test_a_broken_file_is_told(tmp_path: Path, ending: str, content: bytes) -> None:
    if ending == ".h5":
        pytest.importorskip("h5py")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / f"a{ending}").write_bytes(content)
    with pytest.raises(InputError, match=r"1 of 1 files .*cannot be used"):
        opened(KSpace(), tmp_path / "data", tmp_path / "cache")


def test_several_arrays_in_one_file_are_told(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with open(tmp_path / "data" / "a.npy", "wb") as file:
        np.savez(file, x=np.ones((1, 8, 8, 2)))
    with pytest.raises(InputError, match="several arrays"):
        opened(KSpace(), tmp_path / "data", tmp_path / "cache")


@pytest.mark.parametrize("shape", [(1, 9, 7), (3, 1, 5), (2, 8, 11)])
def test_one_slice_and_odd_sizes_are_read(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    written(tmp_path / "data" / "a.h5", kspace=transform(image(*shape)))
    store = opened(KSpace(), tmp_path / "data", tmp_path / "cache", size=17)
    assert store.images.shape == (shape[0], 2, 17, 17)
    assert np.isfinite(store.images).all()


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "notes.txt").write_text("nothing")
    with pytest.raises(InputError, match="no files of k-space"):
        opened(KSpace(), tmp_path / "data", tmp_path / "cache")


def test_the_stand_in_has_bits_of_its_arguments_alone() -> None:
    few, more = (brain_stand_in(16, patients=n, per_patient=2) for n in (3, 4))
    assert np.array_equal(few.images[:6], more.images[:6])
    assert not np.array_equal(few.images[:6], few.images[6:12])
    with pytest.raises(ValueError, match=r"patients must be .* at least 3.*seed must be"):
        brain_stand_in(16, patients=2, seed=-1)
