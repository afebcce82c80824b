"""Adapters: few parameters that are trained in the place of a model's own weights.

A model is made and its weights are loaded; then `attach` adds an adapter to it, in place. The names
of the model's own state stay as they were. What an adapter adds has names of its own
(`adapter_names`), and is what travels.
"""

from fedsim.adapters.attaching import adapter_names, attach, require_used
from fedsim.adapters.factors import factor_pairs, factored, product
from fedsim.adapters.lora import LoRAConv2d, LoRALinear
from fedsim.adapters.paths import UnfitError
from fedsim.adapters.rein import ReinTokens

__all__ = [
    "LoRAConv2d",
    "LoRALinear",
    "ReinTokens",
    "UnfitError",
    "adapter_names",
    "attach",
    "factor_pairs",
    "factored",
    "product",
    "require_used",
]
