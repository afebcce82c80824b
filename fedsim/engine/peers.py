"""FedAvg in other simulators, where they are installed: what rounds are measured beside (`speed`).

Their clients train as those of the loop by hand do, on the same batches, from the same first
weights; each returns the last weights, and the seconds of each round.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, MetricRecord, RecordDict

from fedsim.engine.by_hand import Weights, federated, train_client
from fedsim.randomness import Streams


def flower(scenario: Path) -> tuple[Weights, list[float]]:
    """Flower's simulation: two actors of a core each."""
    from flwr.app import Context, Message
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    work = federated(scenario)
    client_app, server_app = ClientApp(), ServerApp()
    count, ends, last = len(work.clients), [], Weights()

    @client_app.train()
    def train(message: Message, context: Context) -> Message:
        torch.set_num_threads(1)
        received = message.content.array_records["arrays"].to_torch_state_dict()
        client = int(context.node_config["partition-id"])
        number = int(message.content.config_records["config"]["server-round"])  # type: ignore[arg-type]
        given = {name: value.numpy() for name, value in received.items()}
        trained = train_client(work.make(), work, given, client, number)
        arrays = ArrayRecord({name: torch.from_numpy(value) for name, value in trained.items()})
        metrics = MetricRecord({"num-examples": work.clients[client].records})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    class Averaging(FedAvg):
        """FedAvg that notes when rounds begin and end."""

        def configure_train(self, *given: Any, **more: Any) -> Any:
            ends.append(time.perf_counter())
            return super().configure_train(*given, **more)

    @server_app.main()
    def serve(grid: Grid, context: Context) -> None:
        while len(list(grid.get_node_ids())) < count:
            time.sleep(0.01)
        first = {name: torch.tensor(value) for name, value in work.first.items()}
        strategy = Averaging(fraction_evaluate=0.0, min_available_nodes=count)
        found = strategy.start(grid, ArrayRecord(first), num_rounds=work.rounds)
        ends.append(time.perf_counter())
        state = found.arrays.to_torch_state_dict()
        last.update({name: value.numpy() for name, value in state.items()})

    # Without an address Ray would join whatever cluster a machine-wide file names.
    started = {"num_cpus": 2, "address": "local"}
    backend = {"client_resources": {"num_cpus": 1}, "init_args": started}
    run_simulation(server_app, client_app, count, backend_config=backend)  # type: ignore[arg-type]
    return last, [end - begin for begin, end in itertools.pairwise(ends)]


def pfl(scenario: Path, threads: int) -> tuple[Weights, list[float]]:
    """pfl-research's simulation, in one process."""
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.aggregate.weighting import WeightByDatapoints
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.dataset import Dataset
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.sampling import get_user_sampler
    from pfl.hyperparam.base import NNTrainHyperParams
    from pfl.metrics import Metrics
    from pfl.model.pytorch import PyTorchModel

    torch.set_num_threads(threads)
    work = federated(scenario)
    model = work.make()
    model.load_state_dict({name: torch.tensor(value) for name, value in work.first.items()})
    # It asks for both, and scores clients in the first round, which is not timed.
    model.loss = model.metrics = lambda *batch: {}  # type: ignore[assignment, misc]
    ends: list[float] = []

    class Averaging(FederatedAveraging):  # type: ignore[misc, type-arg]
        """Its FedAvg, with the client's loop of the others."""

        def train_one_user(
            self, initial_model_state: Any, model: Any, user_dataset: Any, central_context: Any
        ) -> tuple[Any, Any]:
            client, number = int(user_dataset.user_id), central_context.current_central_iteration
            model.pytorch_model.train()
            draws = Streams(work.seed).torch("batches", number + 1, client)
            work.clients[client].train(model.pytorch_model, draws)
            return model.get_model_difference(initial_model_state), Metrics()

    class Clock(TrainingProcessCallback):  # type: ignore[misc, type-arg]
        """Notes when rounds end."""

        def on_train_begin(self, *, model: Any) -> Any:
            ends.append(time.perf_counter())
            return Metrics()

        def after_central_iteration(self, *given: Any, **more: Any) -> tuple[bool, Any]:
            ends.append(time.perf_counter())
            return False, Metrics()

    names = [str(client) for client in range(len(work.clients))]
    sets = {
        name: Dataset([torch.zeros(client.records)], user_id=name)
        for name, client in zip(names, work.clients, strict=True)
    }
    data = FederatedDataset(sets.__getitem__, get_user_sampler("minimize_reuse", names))
    Averaging().run(
        NNAlgorithmParams(work.rounds, work.rounds, len(names), None),
        SimulatedBackend(data, data, postprocessors=[WeightByDatapoints()]),
        PyTorchModel(model, torch.optim.SGD, torch.optim.SGD(model.parameters(), lr=1.0)),
        NNTrainHyperParams(local_num_epochs=1, local_learning_rate=0.0, local_batch_size=None),
        callbacks=[Clock()],
        send_metrics_to_platform=False,
    )
    last = {name: value.detach().numpy().copy() for name, value in model.state_dict().items()}
    return last, [end - begin for begin, end in itertools.pairwise(ends)]
