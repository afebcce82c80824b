"""Frozen features: what a network that nobody trains makes of each image, computed once.

`extracting` computes them for a store of images and keeps them in the cache, `mapping` centres,
whitens and shortens them with public images alone, and `store` is what a task on them reads.
"""
