"""Noise that clients share, `privacy.trust: secure_sum`: whom a guarantee then asks to trust.

Each of N clients adds noise whose variance is 1/N of what the sum needs. The sum of all their
answers has the noise that the accounting claims; one answer alone has too little. So the guarantee
holds if clients mask their answers and the server learns their sum and nothing else (secure
aggregation), as here it is taken for granted and not carried out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from fedsim.errors import InputError
from fedsim.method.capabilities import capabilities
from fedsim.method.strategy import Strategy
from fedsim.scenario.schema import Faults, Privacy, Scenario

_KEY = 32  # bytes of a public key (X25519)
_SEALED = 2 * 32 + 12 + 16  # of two shares of 256 bits, encrypted: their nonce and tag (AES-GCM)
_SHARE = 32  # bytes of a share that is shown when all have answered
_BITS = 32  # of a coordinate of one client's answer, in fixed point


def masked_bytes(clients: int, numbers: int) -> int:
    """Bytes that all clients would send for one masked sum, were it carried out.

    After Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning"
    (2017), without dropouts. A client sends two public keys; to each other client two shares of its
    secrets, encrypted; each coordinate in 32 + ceil(log2 N) bits, so that N of them cannot
    overflow; and one share of each client when all have answered. What the server sends on, and
    framing, are not counted.

    Args:
        clients: N.
        numbers: coordinates of the sum.
    """
    bits = _BITS + math.ceil(math.log2(clients)) if clients > 1 else _BITS
    each = 2 * _KEY + (clients - 1) * _SEALED + -(-numbers * bits // 8) + clients * _SHARE
    return clients * each


def assumption(clients: int) -> str:
    """What a guarantee takes for granted where N clients share its noise, in words."""
    return (
        f"epsilon is of the sum of all {clients} clients' answers: it holds only if all of them "
        "are honest, mask their answers (secure aggregation, which is not carried out here), and "
        "the server learns the sum alone"
    )


def require_shared_noise(settings: Privacy, participation: float, faults: Faults) -> None:
    """Refuse settings with which the noise of all clients would not be in what is released.

    Raises:
        InputError: says which, and what to type.
    """
    wrong = {
        "privacy.unit=client": settings.unit == "client",
        "privacy.shared_patients=true": settings.shared_patients,
        "privacy.on_budget=drop_client": settings.on_budget == "drop_client",
        f"privacy.audit={settings.audit}": settings.audit in ("run", "lira"),
        f"federation.participation={participation:g}": participation != 1,
        "faults.on_client_error=skip": faults.on_client_error != "stop",
        f"faults.dropout={faults.dropout:g}": faults.dropout > 0,
        "faults.deadline": faults.deadline is not None,
    }
    found = [name for name, there in wrong.items() if there]
    if found:
        raise InputError(
            f"privacy.trust=secure_sum does not go with {', '.join(found)}: the clients' noise is "
            "enough only in the sum of all their answers, of records that no two of them share",
            hint="remove these keys, or type privacy.trust=own_noise",
        )


def require_released_sums(names: Iterable[str], methods: Iterable[object]) -> None:
    """Refuse client methods whose answer is more than one release (InputError).

    Args:
        names: of the methods.
        methods: the methods themselves.
    """
    for name, method in zip(names, methods, strict=True):
        can = capabilities(method)
        if not (can.sends_release and can.full_batch):
            raise InputError(
                f"privacy.trust=secure_sum needs a client method that sends one release of all its "
                f"records and nothing that it made of it, and {name!r} does not declare that",
                hint="type privacy.trust=own_noise, or choose client.name=feature_gram",
            )


def require_alike(scenario: Scenario) -> None:
    """Refuse clients that are not all alike (InputError).

    A client's share of the noise is a share of what the sum needs only where all clients scale
    their answers alike: parameters of the method do that, and a wrapper may.
    """
    for name, override in scenario.federation.overrides.items():
        for key in ("client", "wrapper"):
            if getattr(override, key) is not None:
                raise InputError(
                    f"privacy.trust=secure_sum does not go with federation.overrides.{name}.{key}: "
                    "shares of noise add up to enough only where all clients answer alike",
                    hint="remove it, or type privacy.trust=own_noise",
                )


def require_sum(name: str, strategy: object) -> None:
    """Refuse a strategy that looks at single answers (InputError)."""
    why = "it does not declare that it uses their sum alone"
    if isinstance(strategy, Strategy):
        why = strategy.needs_answers()
    if why:
        raise InputError(
            f"privacy.trust=secure_sum shows the server the sum of all answers and none by itself, "
            f"but strategy {name!r} needs them: {why}",
            hint="type privacy.trust=own_noise, or choose strategy.name=feature_gram",
        )
