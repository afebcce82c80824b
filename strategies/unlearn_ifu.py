"""IFU: restart from the last model that the client had not moved far, with noise.

Fraboni, Van Waerebeke, Scaman, Vidal, Kameni and Lorenzi, "SIFU: Sequential Informed Federated
Unlearning for Efficient and Provable Client Unlearning in Federated Optimization" (2024), for one
request. Method card: `docs/methods/unlearning.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from fedsim import InputError, Server
from fedsim.method import Arrays
from fedsim.strategies.unlearning import Unlearning
from fedsim.unlearning import Memory, Sensitivities, analytic_bound, certificate, classical_bound
from fedsim.wire import Codec


class IFU(Unlearning):
    """Go back to the last model whose distance from one without the client is bounded by psi.

    psi is what Gaussian noise of `sigma` hides at (epsilon, delta). The noise is added to that
    model; to the first one none is, for it never saw the client.

    Args:
        train_rounds, client, codec, weighting: as of `Unlearning`.
        epsilon, delta: of the certificate.
        sigma: standard deviation of the noise.
        bound: psi by the exact Gaussian mechanism ("analytic"), or as published ("classical").
        norm: "l2" bounds the Euclidean distance; "coordinatewise" each coordinate by itself, as the
            paper's experiments do: no certificate follows from it.
        psi: the bound itself, in place of that by epsilon, delta and sigma.
        contraction: (1 - learning rate lambda)^K of lambda-strongly convex losses; 1 of convex
            ones.
        convex: you say that the losses are convex and smooth, and that clients take plain gradient
            steps no longer than 2 over the smoothness. Without that nothing is certified. A model
            with hidden layers is refused then.
    """

    def __init__(
        self,
        train_rounds: PositiveInt,
        client: str | None = None,
        epsilon: PositiveFloat = 1.0,
        delta: PositiveFloat = 0.025,
        sigma: NonNegativeFloat = 0.025,
        bound: Literal["analytic", "classical"] = "analytic",
        norm: Literal["l2", "coordinatewise"] = "l2",
        psi: NonNegativeFloat | None = None,
        contraction: PositiveFloat = 1.0,
        convex: bool = False,
        codec: Codec = "float32",
        weighting: Literal["samples", "uniform"] = "uniform",
    ) -> None:
        super().__init__(train_rounds, client, codec, weighting)
        if delta >= 1:
            raise ValueError(f"delta must be below 1, not {delta}.")
        if contraction > 1:
            raise ValueError(f"contraction must be at most 1, not {contraction}.")
        self.epsilon = epsilon
        self.delta = delta
        self.sigma = sigma
        self.bound = bound
        self.norm = norm
        self.contraction = contraction
        self.convex = convex
        of_noise = analytic_bound if bound == "analytic" else classical_bound
        self.psi = of_noise(epsilon, delta, sigma) if psi is None else psi

    def setup(self, server: Server) -> None:
        """Refuse `convex` of a model that is not."""
        super().setup(server)
        if not self.convex:
            return
        layers = [
            module
            for module in server.new_model().modules()
            if list(module.parameters(recurse=False))
        ]
        if len(layers) > 1 or not isinstance(layers[0], torch.nn.Linear):
            raise InputError(
                f"strategy.convex: the model has {len(layers)} layers with parameters, so its loss "
                "is not convex",
                hint="leave strategy.convex out: nothing is certified then; or type model=linear",
            )

    def memories(self, leavers: Sequence[int], clients: int) -> list[Memory]:
        """The bounds, and the last models below psi."""
        euclidean = self.norm == "l2"
        return [Sensitivities(leavers, clients, self.psi, self.contraction, euclidean)]

    def unlearned(self, arrays: Arrays) -> Arrays:
        """The model to restart from, with noise."""
        kept, leaver = self.memory(Sensitivities), self.leaver
        assert leaver is not None
        found = kept.checkpoint(leaver)
        if found is None:
            return arrays
        if not kept.restart[leaver] or not self.sigma:
            return found
        draws = self.server.generator("unlearning noise")
        noisy = {}
        for name, value in found.items():
            noise = torch.randn(value.shape, generator=draws, dtype=torch.float64)
            noisy[name] = value + self.sigma * noise.numpy()
        return noisy

    def details(self) -> dict[str, Any]:
        """The certificate, and the numbers that it is computed from."""
        kept, leaver = self.memory(Sensitivities), self.leaver
        assert leaver is not None
        assert self.client is not None
        restart, bounds = kept.restart.get(leaver, 0), kept.bounds.get(leaver, [0.0])
        found = certificate(
            self.client,
            psi=bounds[restart],
            sigma=self.sigma if restart else 0.0,
            delta=self.delta,
            restart=restart,
            convex=self.convex,
            euclidean=self.norm == "l2",
            contraction=self.contraction,
        )
        return {
            "guarantee": found.words,
            "certificate": found.record(),
            "psi_allowed": self.psi,
            "bound": self.bound,
            "norm": self.norm,
            "contraction": self.contraction,
            "terms": list(kept.terms.get(leaver, [])),
            "bounds": list(bounds),
            "restart": restart,
        }
