"""Fed-CoT: a student and a teacher on the wire, both averaged with equal weights.

Zhan et al., "Fed-CoT: Co-teachers for Federated Semi-supervised MS Lesion Segmentation" (2023).
The client's half is `clients/fed_cot.py`, the method card `docs/methods/fewlabels.md`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedsim import InputError
from fedsim.method import Arrays
from fedsim.strategies.fedavg import FedAvg
from fedsim.wire import tensor_record, tensors

SYNC = "teacher"
"""The record of a message with the teacher, of parameters alone."""


class FedCoT(FedAvg):
    """Average the clients' students and their synchronous teachers; every client counts once.

    The student is the global model that is scored. Beside it each message has the teacher: twice
    the payload of `fedavg`. At first both are the same.
    """

    payload_kind = "student and teacher"
    made_for = "volumes"
    linear = False

    def __init__(self) -> None:
        super().__init__("float32", "uniform")
        self._teacher: ArrayRecord | None = None

    def content(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord) -> RecordDict:
        """The student, and the teacher."""
        content = super().content(server_round, arrays, config)
        content[SYNC] = arrays if self._teacher is None else self._teacher
        return content

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The mean student; the mean teacher is kept for the next round.

        Raises:
            InputError: a client sent no teacher.
        """
        sums: Arrays = {}
        count = 0

        def heard() -> Iterator[Message]:
            nonlocal count
            for reply in replies:
                if SYNC not in reply.content.array_records:
                    raise InputError(
                        "strategy fed_cot averages the clients' teachers, and they send none",
                        hint="type client=fed_cot, or strategy=fedavg",
                    )
                for name, value in tensors(reply.content.array_records[SYNC]).items():
                    wide = value.astype("float64")
                    sums[name] = sums[name] + wide if name in sums else wide
                count += 1
                yield reply

        student, metrics = super().aggregate_train(server_round, heard())
        if count:
            self._teacher = tensor_record(
                {name: (total / count).astype("float32") for name, total in sums.items()}
            )
        return student, metrics

    def state_dict(self) -> dict[str, Any]:
        """The teacher."""
        return {**super().state_dict(), SYNC: self._teacher}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the teacher back."""
        super().load_state_dict(state)
        self._teacher = state[SYNC]
