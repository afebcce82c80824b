"""Federated denoising: a task of its own for fedsim."""

from denoise.method import Denoise, Denoiser
from denoise.task import Denoising, NoisySkin

__all__ = ["Denoise", "Denoiser", "Denoising", "NoisySkin"]
