"""Many clients' models as one: small models are stacked, and trained in one call.

A step of a small model costs what its dozens of calls cost, not what they compute. Stacked along a
further axis, sixteen clients share the calls (`torch.func.vmap`). Each has its own batches, in the
order that it has alone; batches of different sizes are padded, and padding weighs nothing. What
comes out is what each client alone would have, up to rounding.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from flwr.app import MetricRecord, RecordDict
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fedsim.method.updates import plain_model, proximal_mu
from fedsim.raising import one_line
from fedsim.wire.arrays import tensor_record

if TYPE_CHECKING:
    from fedsim.method.client import Site

WIDTH = 16
"""Clients in a stack, at most: wider ones were not faster, and take more memory."""
MOST_OPERATIONS = 2**24
"""Floating-point operations of a forward pass of one client's batch, at most.

Above, a client's own step fills a core, and a grouped convolution is slower than several. Ratios of
a stack to a loop were 0.2 to 0.7 below 13 million operations, and 1.2 to 1.6 above 50 million.
"""
MOST_MB = 256.0
"""Memory (MB) of the images of a stack's clients, at most."""
_RECORDS = 3
_TOLERANCE = 1e-4


@dataclass
class Share:
    """What one client of a stack does.

    Attributes:
        images: float32 [n, ...], all of its records.
        labels: int64 [n].
        batches: positions of each step's records, int64 [<= batch size].
        progress: one item a step.
        class_weights: float32 [classes]; None: all classes count alike.
    """

    images: Tensor
    labels: Tensor
    batches: Sequence[Tensor]
    progress: Iterator[int]
    class_weights: Tensor | None = None


@dataclass(frozen=True)
class Descent:
    """Steps of SGD as `torch.optim.SGD` takes them, with FedProx's term.

    Attributes:
        learning_rate, momentum, weight_decay: of SGD.
        proximal: mu of mu/2 |w - w0|^2 (Li et al. 2020, Eq. 2); 0 for none.
    """

    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    proximal: float = 0.0


class Course(NamedTuple):
    """What a client does in a round.

    Attributes:
        order: yields positions of each step's records, int64 [<= batch size].
        steps: how many it takes.
        class_weights: float32 [classes] for the loss; None: all classes count alike.
    """

    order: Iterator[Tensor]
    steps: int
    class_weights: Tensor | None = None


def train_stacked(
    contents: Sequence[RecordDict],
    sites: Sequence[Site],
    descent: Descent,
    course: Callable[[Site], Course],
) -> list[RecordDict] | None:
    """Answer training messages of several clients: their models, trained in one call.

    Args:
        contents: what the server sent to each; its `proximal-mu` counts.
        sites: of each.
        descent: the steps of all.
        course: what each does.

    Returns:
        Each client's trained arrays and its metrics `num-examples` and `loss`; None where what was
        sent is no plain model, or their images take too much memory.
    """
    model = sites[0].new_model()
    received = [plain_model(model, content) for content in contents]
    plain = [arrays for arrays in received if arrays is not None]
    pulls = {proximal_mu(content) for content in contents}
    records = sum(len(site.train) for site in sites)
    megabytes = records * 4 * math.prod(sites[0].task.input_shape) / 1e6
    if len(plain) < len(sites) or len(pulls) > 1 or megabytes > MOST_MB:
        return None
    shares = []
    for site in sites:
        own = course(site)
        shares.append(
            Share(
                images=site.train.images(),
                labels=site.train.labels,
                batches=list(itertools.islice(own.order, own.steps)),
                progress=iter(site.steps(own.steps, "train")),
                class_weights=own.class_weights,
            )
        )
    descent = replace(descent, proximal=pulls.pop())
    trained, losses = fit_stacked(model, _stacked(plain), shares, descent)
    return [
        RecordDict(
            {
                "arrays": tensor_record({name: value[i] for name, value in trained.items()}),
                "metrics": MetricRecord({"num-examples": len(site.train), "loss": losses[i]}),
            }
        )
        for i, site in enumerate(sites)
    ]


def fit_stacked(
    model: nn.Module, first: Mapping[str, Tensor], shares: Sequence[Share], descent: Descent
) -> tuple[dict[str, Tensor], list[float]]:
    """Minimise each client's cross-entropy from its own first weights.

    Args:
        model: what all of them train; its own weights stay as they are.
        first: name of a parameter -> float32 [clients, ...], the weights of each client.
        shares: what each client does, in the same order.
        descent: how.

    Returns:
        Name of a parameter -> [clients, ...], trained; and each client's mean loss over its steps,
        0 where it has none.
    """
    model.train()
    # Who has most steps comes first: those at work are the first ones, always.
    order = sorted(range(len(shares)), key=lambda place: -len(shares[place].batches))
    images = torch.cat([share.images for share in shares])
    labels = torch.cat([share.labels for share in shares])
    worth = torch.cat([_worth(share) for share in shares])
    begins = torch.tensor([0, *(len(share.labels) for share in shares)]).cumsum(0)
    trained = {name: value.clone() for name, value in first.items()}
    weights = {name: value[order] for name, value in first.items()}
    start, moved = weights, dict[str, Tensor]()
    losses = [0.0] * len(shares)
    forward = vmap(lambda own, batch: functional_call(model, own, (batch,)))
    for step in range(len(shares[order[0]].batches)):
        at_work = [place for place in order if len(shares[place].batches) > step]
        if len(at_work) < len(next(iter(weights.values()))):
            _put(trained, weights, order)
            weights, start, moved = (
                {name: value[: len(at_work)] for name, value in some.items()}
                for some in (weights, start, moved)
            )
        for place in at_work:
            next(shares[place].progress, None)
        chosen, real = _padded([shares[p].batches[step] + begins[p] for p in at_work])
        leaves = {name: value.detach().requires_grad_() for name, value in weights.items()}
        logits = forward(leaves, images[chosen])
        found = F.cross_entropy(logits.flatten(0, 1), labels[chosen].flatten(), reduction="none")
        weight = worth[chosen] * real
        loss = (found.view_as(weight) * weight).sum(1) / weight.sum(1)
        if descent.proximal:
            away = [(w - start[name]).square().flatten(1).sum(1) for name, w in leaves.items()]
            loss = loss + descent.proximal / 2 * torch.stack(away).sum(0)
        gradients = torch.autograd.grad(loss.sum(), list(leaves.values()))
        weights, moved = _stepped(weights, gradients, moved, descent)
        for place, value in zip(at_work, loss.tolist(), strict=True):
            losses[place] += value
    _put(trained, weights, order)
    for share in shares:
        next(share.progress, None)  # The last step is done.
    counts = [max(len(share.batches), 1) for share in shares]
    return trained, [total / count for total, count in zip(losses, counts, strict=True)]


def _stacked(received: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, Tensor]:
    """The weights of several clients, by name: float32 [clients, ...], in memory of their own."""
    names = received[0]
    return {n: torch.from_numpy(np.stack([arrays[n] for arrays in received])) for n in names}


def why_not_stacked(model: nn.Module, shape: Sequence[int], batch_size: int) -> str:
    """Why models of this kind are not trained in one call; "" where they can be, and it pays.

    Args:
        model: is called with random records in its training mode; its weights stay.
        shape: of a record.
        batch_size: records in a step.
    """
    from torch.utils.flop_counter import FlopCounterMode

    parameters = dict(model.named_parameters())
    if set(model.state_dict()) != set(parameters) or any(True for _ in model.buffers()):
        return "its state is more than parameters, each under one name"
    if not all(p.requires_grad and p.dtype == torch.float32 for p in parameters.values()):
        return "not all of its parameters are trained in float32"
    records = torch.randn((_RECORDS, *shape), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            alone = model.train()(records)
        operations = counter.get_total_flops() / _RECORDS * batch_size
        if operations > MOST_OPERATIONS:
            return (
                f"a step takes {operations / 1e6:.0f} million operations, and one call pays below "
                f"{MOST_OPERATIONS / 1e6:.0f}"
            )
        if not torch.allclose(model(records[:2]), alone[:2], atol=_TOLERANCE, rtol=_TOLERANCE):
            return "a record's output depends on others in its batch"
        both = {name: torch.stack([p, p * 0.5]) for name, p in parameters.items()}
        batches = torch.stack([records, records.flip(0)])
        try:
            found = vmap(lambda own, batch: functional_call(model, own, (batch,)))(both, batches)
        except Exception as error:
            return f"torch cannot stack it: {one_line(error)}"
    if not torch.allclose(found[0], alone, atol=_TOLERANCE, rtol=_TOLERANCE):
        return "stacked, it computes something else"
    return ""


def _stepped(
    weights: Mapping[str, Tensor],
    gradients: Sequence[Tensor],
    moved: Mapping[str, Tensor],
    descent: Descent,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights and the momentum after a step."""
    stepped, momentum = {}, {}
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        if descent.weight_decay:
            gradient = gradient.add(weight, alpha=descent.weight_decay)
        if descent.momentum:
            before = moved.get(name)
            gradient = gradient if before is None else before * descent.momentum + gradient
            momentum[name] = gradient
        stepped[name] = weight.sub(gradient, alpha=descent.learning_rate)
    return stepped, momentum


def _worth(share: Share) -> Tensor:
    """What each record's loss weighs, float32 [n]."""
    if share.class_weights is None:
        return torch.ones(len(share.labels))
    return share.class_weights[share.labels]


def _padded(batches: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Positions [clients, largest batch], and 1 where they are a client's own, 0 where padding."""
    sizes = torch.tensor([len(batch) for batch in batches])
    chosen = nn.utils.rnn.pad_sequence(list(batches), batch_first=True)
    return chosen, (torch.arange(chosen.shape[1]) < sizes[:, None]).float()


def _put(trained: Mapping[str, Tensor], weights: Mapping[str, Tensor], order: list[int]) -> None:
    """Write the weights of the first ones of `order` to their places."""
    for name, value in weights.items():
        trained[name][order[: len(value)]] = value
