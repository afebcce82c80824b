"""Differential privacy as pure functions: what is released, what it costs, what an attack proves.

`mechanisms` turns per-sample gradients into one noisy release, `accounting` adds releases up to
epsilon, `audit` bounds epsilon from below out of attack scores. None of them knows the engine, and
none keeps state.
"""
