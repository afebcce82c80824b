"""The model and the client method."""

import torch
from flwr.app import MetricRecord, RecordDict
from pydantic import PositiveFloat, PositiveInt

from denoise.task import NOISE, Denoising
from fedsim import Client, Site
from fedsim.method import endless_batches
from fedsim.wire import load_state, pack_state


class Denoiser(torch.nn.Module):
    """Three convolutions that predict the noise."""

    made_for = Denoising.made_for

    def __init__(self, in_channels: int, width: PositiveInt = 16) -> None:
        super().__init__()
        ends = ((in_channels, width), (width, width), (width, in_channels))
        layers = [torch.nn.Conv2d(a, b, 3, padding=1) for a, b in ends]
        relu = torch.nn.ReLU()
        self.noise = torch.nn.Sequential(layers[0], relu, layers[1], relu, layers[2])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images - self.noise(images)


class Denoise(Client):
    """Local training on images with new noise in each step."""

    made_for, payload = Denoising.made_for, "arrays"

    def __init__(self, steps: PositiveInt = 20, learning_rate: PositiveFloat = 0.003) -> None:
        self.steps, self.learning_rate = steps, learning_rate

    def train(self, content: RecordDict, site: Site) -> RecordDict:
        model, chance = site.new_model(), site.generator("noise")
        load_state(model, content.array_records["arrays"])
        model.to(site.device).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=self.learning_rate)
        order, loss = endless_batches(len(site.train), 16, site.generator("batches")), 0.0
        for _, rows in zip(site.steps(self.steps, "train"), order, strict=False):
            clean = site.train.images(rows)
            noisy = clean + NOISE * torch.randn(clean.shape, generator=chance)
            error = (model(noisy.to(site.device)) - clean.to(site.device)).square().mean()
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
            loss = float(error.detach())
        metrics = MetricRecord({"num-examples": len(site.train), "loss": loss})
        return RecordDict({"arrays": pack_state(model.state_dict()), "metrics": metrics})
