"""Complex slices of MR images, whose k-space is measured in part."""

from fedsim.data.slices.dataset import EmbeddedSlices, SliceDataset, SliceManifest

__all__ = ["EmbeddedSlices", "SliceDataset", "SliceManifest"]
