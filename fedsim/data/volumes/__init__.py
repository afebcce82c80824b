"""Volumes: segmentation data, read from medical image files into a store of their own."""
