"""Segmentation of volumes: the task, training from partial labels, inference, scores.

A model maps images float32 [B, 1, *patch] to logits [B, 1 + structures, *patch]. A deeply
supervised one gives, while it trains, a sequence of such logits, the full-resolution output first.
"""
