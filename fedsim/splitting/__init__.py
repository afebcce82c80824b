"""Split learning: a model that is cut in three, and the channel that its parts talk over.

The front end and the back end lie at the client, the part between them at the server, which has a
copy of it for each client. In each step features go to the server and come back as features, and
gradients return on the same way. So a client and its copy of the server's part can be computed in
one process, up to rounding; what would have crossed is counted (`fedsim.splitting.sizes`).

Kafshgari, Z. H., Shiranthika, C., Saeedi, P., Bajić, I. V.: "Quality-adaptive split-federated
learning for segmenting medical images with inaccurate annotations" (2023) has the parts, and
Shiranthika et al., "SplitFed resilience to packet loss: where to split, that is the question"
(2023) the channel.
"""

from typing import TYPE_CHECKING

from fedsim.lazy import lazily

if TYPE_CHECKING:
    from fedsim.ledger.traffic import LINK
    from fedsim.splitting.channel import Activations, Channel, Link, dequantised
    from fedsim.splitting.parts import Parts, Splittable, crossing, require_cut
    from fedsim.splitting.sizes import crossed, link_record, step_bytes

__all__ = [
    "LINK",
    "Activations",
    "Channel",
    "Link",
    "Parts",
    "Splittable",
    "crossed",
    "crossing",
    "dequantised",
    "link_record",
    "require_cut",
    "step_bytes",
]

__getattr__ = lazily(
    __name__,
    {
        "LINK": "fedsim.ledger.traffic",
        "Activations": "fedsim.splitting.channel",
        "Channel": "fedsim.splitting.channel",
        "Link": "fedsim.splitting.channel",
        "Parts": "fedsim.splitting.parts",
        "Splittable": "fedsim.splitting.parts",
        "crossed": "fedsim.splitting.sizes",
        "crossing": "fedsim.splitting.parts",
        "dequantised": "fedsim.splitting.channel",
        "step_bytes": "fedsim.splitting.sizes",
        "link_record": "fedsim.splitting.sizes",
        "require_cut": "fedsim.splitting.parts",
    },
)
