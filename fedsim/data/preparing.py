"""What preparing data has in common, of images, volumes and slices: find a store, or build it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from fedsim.data.building import new_folder, publish
from fedsim.data.dataset import columns_of
from fedsim.data.kept import found_whole
from fedsim.data.table import alike_sites, one_name_each

_Store = TypeVar("_Store")
_Made = TypeVar("_Made")

Open = Callable[[Path, bool], _Store]
"""Opens a store in a folder; with True, its bytes were checked already."""


def well_named(manifest: Any) -> Any:
    """A manifest whose patients have one name each; what was changed, or looks odd, is a note.

    Args:
        manifest: a dataclass with `groups`, `sites` and `notes`.
    """
    named, told = one_name_each(manifest.groups)
    told += alike_sites(manifest.sites)
    return replace(manifest, groups=named, notes=(*manifest.notes, *told))


def store_of_files(
    open_: Open[_Store],
    manifest: Any,
    root: Path,
    folder: Path,
    skip_bad: bool,
    build: Callable[[Path], bool],
) -> _Store:
    """The store of files: that in the cache, or a new one.

    Args:
        open_: opens a store.
        manifest: of the files; its notes and columns are those of the store, too.
        root: the folder that the files are in.
        folder: where a store of all files lies. One without some of them lies beside it.
        skip_bad: whether files may have been left out.
        build: fills a new folder, and returns whether it left files out.

    Raises:
        RunError: the cache cannot be written.
    """

    def opened(folder: Path, checked: bool = False) -> _Store:
        store: Any = open_(folder, checked)
        notes, columns = (*manifest.notes, *store.notes), columns_of(manifest, store.ids)
        found: _Store = replace(store, root=str(root), notes=notes, columns=columns)
        return found

    # Two folders: what was built without some files must not serve who did not allow that.
    partial = folder.with_name(folder.name + "-skipped")
    for place in (folder, partial) if skip_bad else (folder,):
        if (store := found_whole(opened, place)) is not None:
            return store
    with new_folder(folder.parent) as building:
        place = partial if build(building) or manifest.bad else folder
        publish(building, place)
    return opened(place, checked=True)


def store_of_stand_in(
    open_: Open[_Store],
    folder: Path,
    make: Callable[[], _Made],
    build: Callable[[Path, _Made], object],
) -> _Store:
    """The store of a stand-in: that in the cache, or a new one.

    Args:
        open_: opens a store.
        folder: where it lies.
        make: generates the records.
        build: fills a new folder with them.

    Raises:
        RunError: the cache cannot be written.
    """
    if (store := found_whole(lambda place: open_(place, False), folder)) is not None:
        return store
    made = make()  # An OSError of its own is none of the cache.
    with new_folder(folder.parent) as building:
        build(building, made)
        publish(building, folder)
    return open_(folder, True)
