"""Classification of images: one label an image, by its pixels or by frozen features."""

from fedsim.tasks.classification.task import Classification

__all__ = ["Classification"]
