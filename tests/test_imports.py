"""What a command imports before its result is told: nothing that it does not use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    *("flwr", "matplotlib", "mlflow", "monai", "nibabel", "opacus", "pandas", "ray", "scipy"),
    *("sklearn", "tensorboard", "torch", "torch._dynamo", "jinja2", "SimpleITK"),
}
SMALL = (
    "isic_noniid_fedavg",
    *("rounds=1", "data.size=16", "data.embedded.images=200", "federation.clients=3"),
    *("model={name: cnn, width: 8}", "client.epochs=1"),
)
PRIVATE = "privacy={unit: record, noise_multiplier: 1.0, expected_batch: 16, delta: 1e-3}"
VOLUMES = (
    "hippocampus_partial_fedavg",
    *("rounds=1", "data.size=32", "data.patch=[32, 32]", "data.embedded.cases=8"),
    *("model={name: unet, channels: [4, 8]}", "client.steps=1"),
)
# MONAI imports what it may use at all, these among it, and the others where they are installed.
MONAIS = {"monai", "matplotlib", "nibabel", "pandas", "scipy", "sklearn"}
INSTALLED = {"mlflow", "tensorboard"}
TABLE = {
    "ls": (("ls",), set()),
    "show": (("show", "isic_noniid_fedavg", "rounds=3"), {"torch", "flwr"}),
    "fedavg": (("run", *SMALL), {"torch", "flwr"}),
    # SciPy has the special functions of the accountants.
    "dp-sgd": (("run", *SMALL, "client.class_balanced=false", PRIVATE), {"torch", "flwr", "scipy"}),
    "segmentation": (("run", *VOLUMES), {"torch", "flwr"} | MONAIS),
}

# The page of a run, after its result, needs matplotlib and templates.
NO_PAGE = "from fedsim.observers import page; page.Page.end = lambda *_: None"
CODE = f"""\
import sys
from fedsim.cli import main
code = main(sys.argv[1:])
print("imported:", *sorted({HEAVY!r} & set(sys.modules)))
sys.exit(code)
"""


@pytest.mark.parametrize("case", TABLE)
def test_nothing_is_imported_that_is_not_used(case: str, tmp_path: Path) -> None:
    words, used = TABLE[case]
    runs = words[0] == "run"
    arguments = [*words, *(["--backend", "inline", "--runs", str(tmp_path)] if runs else [])]
    code = f"{NO_PAGE}\n{CODE}" if runs else CODE
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = set(done.stdout.splitlines()[-1].split()[1:])
    assert found - (INSTALLED if used >= MONAIS else set()) == used
