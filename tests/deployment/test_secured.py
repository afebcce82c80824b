"""A federation behind TLS, of nodes whose keys are registered: a private run, with a node's limit.

Needs free ports on the loopback interface only.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from fedsim.deployment.export import export_app
from fedsim.scenario import load
from tests.deployment.conftest import TINY
from tests.deployment.processes import HOST, Processes, free_ports

PRIVATE = (
    *TINY,
    "rounds=1",
    "privacy={noise_multiplier: 1.0, expected_batch: 12, unit: record, delta: 1e-3}",
)


def _certificate(
    subject: str, key: ec.EllipticCurvePrivateKey, issuer: str, by: ec.EllipticCurvePrivateKey
) -> bytes:
    """A certificate for 127.0.0.1, of a subject that is its own issuer or not."""
    name, by_name = (
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, one)]) for one in (subject, issuer)
    )
    now = datetime.datetime.now(datetime.UTC)
    usage = x509.KeyUsage(True, *(False,) * 4, subject == issuer, subject == issuer, False, False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(by_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(subject == issuer, None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False
        )
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))]),
            critical=False,
        )
    )
    return builder.sign(by, hashes.SHA256()).public_bytes(Encoding.PEM)


def _certificates(folder: Path) -> None:
    """`ca.crt`, `server.pem` and `server.key`."""
    authority, server = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    (folder / "ca.crt").write_bytes(_certificate("authority", authority, "authority", authority))
    (folder / "server.pem").write_bytes(_certificate("server", server, "authority", authority))
    (folder / "server.key").write_bytes(
        server.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )


def _key(folder: Path, name: str) -> Path:
    """A node's key, as `ssh-keygen -t ecdsa -b 384` makes it: private, and public in `.pub`."""
    key, path = ec.generate_private_key(ec.SECP384R1()), folder / name
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    path.with_suffix(".pub").write_bytes(public)
    return path


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_registered_nodes_run_a_private_scenario_behind_tls(tmp_path: Path) -> None:
    export_app(load("isic_iid_dpsgd", PRIVATE), tmp_path / "app")
    _certificates(tmp_path)
    keys = [_key(tmp_path, name) for name in ("one", "other", "stranger")]
    authority, paid = str(tmp_path / "ca.crt"), tmp_path / "paid.json"
    with Processes(tmp_path / "flower") as started:
        (port,) = free_ports(1)
        started.link(
            port,
            *("--ssl-ca-certfile", authority),
            *("--ssl-certfile", str(tmp_path / "server.pem")),
            *("--ssl-keyfile", str(tmp_path / "server.key")),
            "--enable-supernode-auth",
        )
        started.name_link(port, f'root-certificates = "{authority}"')
        for key in keys[:2]:
            started.flwr("supernode", "register", str(key.with_suffix(".pub")))
        limit = f'client=1 epsilon-limit=9.0 epsilon-file="{paid}"'
        # The stranger says that it is a client that is there already, and would stop the run.
        started.nodes(
            port,
            ["client=0", limit, "client=0"],
            *(
                ("--root-certificates", authority, "--auth-supernode-private-key", str(key))
                for key in keys
            ),
        )
        started.flwr("run", str(tmp_path / "app"), "--run-config", f'runs="{tmp_path / "runs"}"')
        folder = started.wait_for_run(tmp_path / "runs")
    log = (tmp_path / "flower" / "superlink.log").read_text(errors="replace")
    assert "No SuperNode found with the given public key" in log
    summary = json.loads((folder / "summary.json").read_text())
    kept = json.loads(paid.read_text())
    assert kept["epsilon"] == pytest.approx(summary["epsilon"])
    assert list(kept["trainings"].values()) == [1]
    assert json.loads((folder / "run.json").read_text())["status"] == "done"
