"""Label flipping: a client that trains on wrong labels, to test how robust an aggregation is.

Tolpegin et al., "Data Poisoning Attacks Against Federated Learning Systems" (2020).
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field

from fedsim import Client, Site, Wrapper


class FlipLabels(Wrapper):
    """Give a share of the site's training images the label of the next class.

    Args:
        share: of the images, drawn once, the same in all rounds.
    """

    made_for = ("images", "features")

    def __init__(self, inner: Client, share: Annotated[float, Field(gt=0, le=1)] = 1.0) -> None:
        super().__init__(inner)
        self.share = share

    def site(self, site: Site) -> Site:
        """The same site with wrong labels."""
        view = copy.copy(site.train)
        # Of the first round, whichever it is: the same images are wrong all along.
        draws = replace(site, round=0, exchange=0).generator("flipped labels")
        flipped = torch.rand(len(view), generator=draws) < self.share
        others = (view.labels + 1) % site.task.num_classes
        view.labels = torch.where(flipped, others, view.labels)
        return replace(site, train=view)
