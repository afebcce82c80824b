"""Write the files of a store of volumes, one case after another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fedsim.data.building import group_codes
from fedsim.data.copies import BYTES, digest, keep_together
from fedsim.data.kept import write_about
from fedsim.data.volumes.case import Prepared

IMAGES, MASKS = "images.bin", "masks.bin"
"""All volumes (little-endian float32) and all outlines (uint8), one after another."""

ARRAYS = ("shapes", "spacing", "sites", "groups", "digests")
"""What is known of each case, a .npy file each."""


class VolumesDigest:
    """The fingerprint of a store: SHA-256 over each case's image and outlines, then the rest."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, data: bytes | memoryview) -> None:
        """Take in the next volume, little-endian."""
        self._digest.update(data)

    def finish(
        self, structures: Sequence[str], site_names: Sequence[str], arrays: Mapping[str, np.ndarray]
    ) -> str:
        """Take in what is known about the cases; the fingerprint."""
        self._digest.update(json.dumps([list(structures), list(site_names)]).encode())
        for name in ARRAYS:
            if name != "digests":  # The images themselves are in it.
                self._digest.update(arrays[name].tobytes())
        return self._digest.hexdigest()


class StoreWriter:
    """Writes the files of a store, case by case; only one volume is in memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shapes: list[tuple[int, ...]] = []
        self._spacing: list[tuple[float, ...]] = []
        self._digest = VolumesDigest()
        self._content: list[bytes] = []
        self._outlined: list[frozenset[int]] = []
        self._cut_off = 0

    def add(self, case: Prepared) -> None:
        """Append a case."""
        for name, array, kind in ((IMAGES, case.image, "<f4"), (MASKS, case.label, "u1")):
            data = np.ascontiguousarray(array, dtype=kind).tobytes()
            with (self._folder / name).open("ab") as file:
                file.write(data)
            self._digest.add(data)
        self._content.append(digest(case.image))
        left = set(np.unique(case.label).tolist())
        self._outlined.append(case.outlined)
        self._cut_off += bool(case.outlined - left)
        self._shapes.append(case.image.shape)
        self._spacing.append(case.spacing)

    def finish(
        self,
        *,
        structures: tuple[str, ...],
        sites: list[str],
        groups: list[str],
        ids: list[str],
        source: str,
        root: str | None,
        skipped: list[str],
    ) -> None:
        """Write what is known about the cases; copies become one group."""
        content = np.frombuffer(b"".join(self._content), dtype=np.uint8).reshape(-1, BYTES)
        joined, notes = keep_together(content, groups, ids)
        if source == "path":
            notes += self._unseen(structures)
        site_names = sorted(set(sites))
        arrays = {
            "shapes": np.array(self._shapes, dtype=np.int64),
            "spacing": np.array(self._spacing, dtype=np.float64),
            "sites": np.array([site_names.index(site) for site in sites], dtype=np.int64),
            "groups": group_codes(joined),
            "digests": content,
        }
        for name in ARRAYS:
            np.save(self._folder / f"{name}.npy", arrays[name], allow_pickle=False)
        about = {
            "fingerprint": self._digest.finish(structures, site_names, arrays),
            "digests_sha256": hashlib.sha256(content.tobytes()).hexdigest(),
            "source": source,
            "root": root,
            "structures": list(structures),
            "site_names": site_names,
            "skipped": skipped,
            "ids": ids,
            "notes": notes,
            "patients": groups,
        }
        write_about(self._folder, about)

    def _unseen(self, structures: tuple[str, ...]) -> list[str]:
        """Notes on outlines that are not there, or no longer."""
        notes, count = [], len(self._outlined)
        seen: frozenset[int] = frozenset().union(*self._outlined)
        never = [name for value, name in enumerate(structures, start=1) if value not in seen]
        if never:
            notes.append(f"no mask outlines {', '.join(never)}: do the masks use other values?")
        empty = sum(not outlined for outlined in self._outlined)
        if 0 < empty < count:
            notes.append(f"{empty} of {count} cases have masks without any outline")
        if self._cut_off:
            notes.append(
                f"in {self._cut_off} of {count} cases a structure lies wholly in what is cut off "
                "(data.size, data.field_of_view, data.slices)"
            )
        return notes
