"""Data: what a data set is, the store it is kept in, splits, and partitions over clients."""

from typing import TYPE_CHECKING

from fedsim.lazy import lazily

if TYPE_CHECKING:
    from fedsim.data.dataset import Dataset, Embedded, Manifest
    from fedsim.data.partition import Partition
    from fedsim.data.skin import HAM10000, ISIC2020
    from fedsim.data.views import View

__all__ = [
    "HAM10000",
    "ISIC2020",
    "Dataset",
    "Embedded",
    "Manifest",
    "Partition",
    "View",
]

__getattr__ = lazily(
    __name__,
    {
        "Dataset": "fedsim.data.dataset",
        "Embedded": "fedsim.data.dataset",
        "Manifest": "fedsim.data.dataset",
        "Partition": "fedsim.data.partition",
        "HAM10000": "fedsim.data.skin",
        "ISIC2020": "fedsim.data.skin",
        "View": "fedsim.data.views",
    },
)
