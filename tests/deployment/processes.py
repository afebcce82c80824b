"""A SuperLink with its SuperNodes on the loopback interface, as a person would start them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses just now."""
    with ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]


class Processes:
    """Starts commands in the background, each with a log; ends them, and nothing else, at the end.

    Args:
        folder: where logs and Flower's own files lie, and where commands are started.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = os.pathsep.join([str(Path(sys.executable).parent), *_scripts()])
        self.environment = {
            **os.environ,
            "PATH": os.pathsep.join([path, os.environ.get("PATH", "")]),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
            "FLWR_HOME": str(folder / "flwr"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            # Each time takes processor time of all that ask, and of the link.
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
        }
        (folder / "flwr").mkdir(parents=True)
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        # The nodes take leave of the link, so that it ends after them.
        for some in (self._started[1:], self._started[:1]):
            for process in some:
                process.terminate()
            for process in some:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(10)
        for process in self._started:
            # A session of its own: helpers that it started end with it.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)

    def start(self, name: str, *command: str) -> Path:
        """Start a command; its log."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._started.append(process)
        return log

    def link(self, port: int, *options: str) -> None:
        """Start a SuperLink, and wait until it runs."""
        started = ("flower-superlink", "--host", HOST, "--port", str(port))
        log = self.start(
            "superlink", *started, "--disable-runtime-dependency-installation", *options
        )
        wait_for(log, "running")

    def name_link(self, port: int, *lines: str) -> None:
        """Let `flwr` know the SuperLink as `federation`."""
        head = ('[superlink]\ndefault = "federation"', "[superlink.federation]")
        text = "\n".join([*head, f'address = "{HOST}:{port}"', *lines])
        (self.folder / "flwr" / "config.toml").write_text(text + "\n")

    def nodes(self, port: int, configurations: Sequence[str], *options: Sequence[str]) -> None:
        """Start a SuperNode for each configuration, with the options of each."""
        ports = free_ports(len(configurations))
        for number, (own, configuration) in enumerate(zip(ports, configurations, strict=True)):
            further = options[number] if options else ("--insecure",)
            self.start(
                f"supernode{number}",
                "flower-supernode",
                *("--superlink", f"{HOST}:{port}", "--host", HOST, "--port", str(own)),
                *("--node-config", configuration),
                *further,
            )

    def flwr(self, *arguments: str) -> str:
        """What a command of `flwr` prints."""
        done = subprocess.run(
            ["flwr", *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def wait_for_run(self, runs: Path, seconds: float = 480) -> Path:
        """Wait until a run below a folder of runs has ended, and is done; its run folder."""
        end = time.monotonic() + seconds
        while True:
            for path in runs.glob("*/*-seed*/run.json"):
                status = json.loads(path.read_text())["status"]
                if status == "done":
                    return path.parent
                if status != "running":
                    pytest.fail(f"{path.parent} {status}:\n{self.logs()}")
            if time.monotonic() > end:
                pytest.fail(f"no run in {runs} is done after {seconds:.0f} s:\n{self.logs()}")
            time.sleep(0.2)

    def traffic(self) -> dict[str, tuple[int, int]]:
        """The SuperLink's counts, bytes up and down, by the name of the app."""
        found: list[dict[str, Any]] = json.loads(self.flwr("ls", "--format", "json"))["runs"]
        counted = {one["fab-id"].rpartition("/")[2]: one["network-traffic"] for one in found}
        return {
            name: (one["inbound-bytes"], one["outbound-bytes"]) for name, one in counted.items()
        }

    def logs(self) -> str:
        """The ends of all logs."""
        return "\n".join(
            f"--- {log.name}\n{log.read_text(errors='replace')[-2500:]}"
            for log in sorted(self.folder.glob("*.log"))
        )


def _scripts() -> list[str]:
    """Where the commands of packages lie that this Python finds elsewhere."""
    return [
        str(Path(entry).parents[2] / "bin")
        for entry in sys.path
        if entry.endswith("site-packages") and (Path(entry).parents[2] / "bin" / "flwr").is_file()
    ]


def wait_for(log: Path, text: str, seconds: float = 60) -> None:
    """Wait until a log contains a text."""
    end = time.monotonic() + seconds
    while text not in (seen := log.read_text(errors="replace")):
        if time.monotonic() > end:
            pytest.fail(f"{log.name} does not say {text!r} after {seconds:.0f} s:\n{seen[-3000:]}")
        time.sleep(0.1)
