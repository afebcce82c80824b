"""Self-supervised pretraining on public images, and probes of frozen features.

`images` has what a network learns from, `views` and `losses` what SimCLR is made of, and `simclr`
the loop. `probes` tells how good frozen features are, without a federation.
"""

from typing import TYPE_CHECKING

from fedsim.lazy import lazily

if TYPE_CHECKING:
    from fedsim.pretraining.images import public_images
    from fedsim.pretraining.losses import koleo, nt_xent
    from fedsim.pretraining.probes import probe
    from fedsim.pretraining.simclr import Pretraining, pretrain

__all__ = ["Pretraining", "koleo", "nt_xent", "pretrain", "probe", "public_images"]

__getattr__ = lazily(
    __name__,
    {
        "Pretraining": "fedsim.pretraining.simclr",
        "koleo": "fedsim.pretraining.losses",
        "nt_xent": "fedsim.pretraining.losses",
        "pretrain": "fedsim.pretraining.simclr",
        "probe": "fedsim.pretraining.probes",
        "public_images": "fedsim.pretraining.images",
    },
)
