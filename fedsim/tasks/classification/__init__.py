"""Classification of images: one label an image."""

from fedsim.tasks.classification.task import Classification

__all__ = ["Classification"]
