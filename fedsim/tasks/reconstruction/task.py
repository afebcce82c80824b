"""The task: complex slices out of a part of their k-space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fedsim.errors import InputError
from fedsim.tasks.metric import Metric, fraction
from fedsim.tasks.task import Task

if TYPE_CHECKING:
    import torch

    from fedsim.federation.holdings import Federation
    from fedsim.scenario.schema import Scenario
    from fedsim.tasks.reconstruction.sampling import Sampling

MADE_FOR = "k-space"
"""What client methods and models declare that go with this task."""

SMALLEST = 7
"""Side of the smallest slices, the window of SSIM."""

_BATCH = 16
_MASK_SEED = 0
"""Of the masks that records are scored with: the same in all runs, whatever their seed."""


@dataclass(frozen=True)
class Reconstruction(Task):
    """To reconstruct slices; a model maps [n, 3, H, W] to complex images [n, 2, H, W].

    A model is given the zero-filled image (real part, imaginary part) and the mask as a third
    channel. It is scored on magnitudes.

    Attributes:
        size: height and width of the slices.
        sampling: what is measured of k-space.
    """

    size: int
    sampling: Sampling

    name: ClassVar[str] = "image-reconstruction"
    made_for: ClassVar[str] = MADE_FOR
    learns_from: ClassVar[str] = "k-space to reconstruct"
    records: ClassVar[str] = "slices"
    things: ClassVar[str] = "slices"
    headline: ClassVar[str] = "psnr"
    metrics: ClassVar[Sequence[Metric]] = (
        Metric("psnr", "PSNR", "dB"),
        fraction("ssim", "SSIM"),
        Metric("gain", "PSNR above zero-filled", "dB", short="gain"),
    )
    in_rounds: ClassVar[tuple[str, ...]] = ("psnr", "ssim")
    pictures_told: ClassVar[str] = "typical test slices and their error (reconstruction/)"

    @property
    def classes(self) -> tuple[str, ...]:  # type: ignore[override]  # There are none.
        """None."""
        return ()

    @classmethod
    def of(cls, scenario: Scenario, store: Any, clients: Sequence[str]) -> Reconstruction:
        """The slices' size, and the sampling that the data set was given.

        Raises:
            InputError: slices of this size cannot be measured or scored so.
        """
        if store.size < SMALLEST:
            raise InputError(
                f"slices of {store.size} x {store.size} pixels are too small to be scored: SSIM "
                f"looks at windows of {SMALLEST} x {SMALLEST}",
                hint=f"set data.size to {SMALLEST} or more",
            )
        try:
            store.sampling.require_fit((store.size, store.size))
        except ValueError as error:
            raise InputError(
                f"k-space of {store.size} x {store.size} points cannot be measured so: {error}",
                hint="data.acceleration says how much is measured, data.centre (of 256 lines) how "
                "much of it lies in the middle",
            ) from error
        return cls(store.size, store.sampling)

    @classmethod
    def split(cls, scenario: Scenario, store: Any, inside: np.ndarray) -> dict[str, np.ndarray]:
        """Every site by itself, patients kept together."""
        from fedsim.data.volumes.split import split_cases

        share = scenario.data.split
        cases = store.sites[inside], store.groups[inside], store.site_names
        return split_cases(*cases, val=share.val, test=share.test, seed=share.seed)

    @classmethod
    def agrees_in(cls, store: Any) -> tuple[str, tuple[str, ...]]:
        """Height and width."""
        return "sizes", (f"{store.size} x {store.size}",)

    @classmethod
    def store_lines(cls, name: str, store: Any) -> list[str]:
        """Where the slices are from, how many, and what is measured."""
        from fedsim.report.slices import store_lines

        return store_lines(name, store)

    @classmethod
    def contents(cls, store: Any) -> str:
        """Slices and patients."""
        return f"{len(store)} slices of {len(np.unique(store.groups))} patients"

    @classmethod
    def goal_of(cls, classes: Sequence[str]) -> str:
        """What is made of what."""
        return "to reconstruct slices from a part of their k-space"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Real part, imaginary part, mask."""
        return 3, self.size, self.size

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Real part, imaginary part."""
        return 2, self.size, self.size

    @property
    def model_arguments(self) -> dict[str, Any]:
        """Channels of the input, and the slices' size."""
        return {"in_channels": 3, "image_size": self.size}

    def open_store(self, folder: Path, checked: bool = True) -> Any:
        """The prepared slices in a folder."""
        from fedsim.data.slices.store import SliceStore

        return SliceStore.open(folder, checked)

    def view(self, store: Any, positions: np.ndarray, client: str | None = None) -> Any:
        """The slices at these positions; all clients have them as they are."""
        from fedsim.data.slices.views import SliceView

        return SliceView(store, positions)

    def masks_of(self, records: np.ndarray) -> torch.Tensor:
        """The masks that records are scored with, [n, 1, H, W]: of a record's number alone."""
        import torch

        from fedsim.randomness import Streams

        draws = [Streams(_MASK_SEED).torch("test mask", int(record)) for record in records]
        side = (self.size, self.size)
        found = [self.sampling.mask(side, one) for one in draws]
        return torch.stack(found)[:, None] if found else torch.zeros(0, 1, *side)

    def predict(self, model: torch.nn.Module, view: Any, device: torch.device) -> np.ndarray:
        """PSNR, SSIM, and PSNR of the zero-filled slice, float64 [n, 3]."""
        import torch

        from fedsim.tasks.evaluation import require_finite
        from fedsim.tasks.reconstruction.metrics import rows
        from fedsim.tasks.reconstruction.sampling import magnitude, model_input

        model.to(device).eval()
        parts = [np.zeros((0, 3))]
        with torch.inference_mode():
            for start in range(0, len(view), _BATCH):
                positions = np.arange(start, min(start + _BATCH, len(view)))
                images = view.images(positions)
                given = model_input(images, self.masks_of(view.indices[positions]))
                found = require_finite(model(given.to(device))).cpu()
                parts.append(rows(magnitude(found), magnitude(images), magnitude(given[:, :2])))
        return np.concatenate(parts)

    def score(
        self, predicted: np.ndarray, view: Any, per_site: bool = False
    ) -> dict[str, float | None]:
        """Means over slices of what `predict` gave, and how far PSNR is above zero-filled."""
        values = {
            "psnr": predicted[:, 0],
            "ssim": predicted[:, 1],
            "gain": predicted[:, 0] - predicted[:, 2],
        }
        scores: dict[str, float | None] = {name: _mean(found) for name, found in values.items()}
        if per_site and len(view.site_names) > 1:
            for code, site in enumerate(view.site_names):
                here = view.sites == code
                scores |= {f"{name}@{site}": _mean(found[here]) for name, found in values.items()}
        return scores

    def predictions(self, predicted: np.ndarray, view: Any) -> tuple[str, dict[str, np.ndarray]]:
        """PSNR of each slice, of which reports take intervals and differences."""
        return super().predictions(np.asarray(predicted)[..., 0], view)

    def data_lines(self, federation: Federation) -> list[str]:
        """Who holds how many slices of which site."""
        from fedsim.report.slices import client_lines

        return client_lines(federation.store, federation.train, federation.split)

    def data_picture(self, scenario: Scenario, federation: Federation, out: Path | None) -> Path:
        """A slice of every site: its magnitude and phase, the mask, and zero-filled."""
        from fedsim.report.slices import save_sites

        out = out or Path(f"{scenario.name}-slices.png")
        save_sites(federation.store, self, scenario.data.name, out)
        return out

    def pictures(
        self,
        folder: Path,
        model: torch.nn.Module,
        view: Any,
        predicted: np.ndarray,
        device: torch.device,
        *,
        title: str,
        note: str,
    ) -> None:
        """Typical test slices, zero-filled, reconstructed and true; an architecture, if any."""
        from fedsim.report.slices import save_reconstructions

        save_reconstructions(
            folder / "reconstruction", model, view, predicted, self, device, title=title, note=note
        )


def reconstruction_task(task: object) -> Reconstruction:
    """The task of a site; InputError where it is another."""
    if not isinstance(task, Reconstruction):
        raise InputError(
            "the client method reconstructs slices from k-space, but the scenario's data are "
            "of another task",
            hint="choose data of k-space, such as data.name=kspace",
        )
    return task


def _mean(values: np.ndarray | Mapping[str, Any]) -> float | None:
    found = np.asarray(values, dtype=np.float64)
    return float(found.mean()) if len(found) else None
