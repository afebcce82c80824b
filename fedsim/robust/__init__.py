"""Robust aggregation: rules that take the place of the mean where some clients may send anything.

The rules are pure functions of what clients send, float64. `distances` compares clients in
difference form and in blocks of coordinates, so that near and large vectors lose no digits and no
float64 copy of all models is made.
"""

from fedsim.robust.distances import cosine_distances, squared_distances
from fedsim.robust.rules import (
    DOS,
    RULES,
    Bulyan,
    CentredClipping,
    GeometricMedian,
    Krum,
    Median,
    NormClipping,
    Rule,
    TrimmedMean,
    copod,
    krum_scores,
)

__all__ = [
    "DOS",
    "RULES",
    "Bulyan",
    "CentredClipping",
    "GeometricMedian",
    "Krum",
    "Median",
    "NormClipping",
    "Rule",
    "TrimmedMean",
    "copod",
    "cosine_distances",
    "krum_scores",
    "squared_distances",
]
