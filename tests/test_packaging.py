"""The wheel, and the three user folders that are imported under another name."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEMPLATES = ROOT / "fedsim" / "authoring" / "templates"


@pytest.mark.parametrize("room", ["strategies", "clients", "scenarios"])
def test_a_room_imported_under_its_bare_name_says_what_to_type(room: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {room}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "import it under that name" in done.stderr
    assert f"fedsim.{room}" in done.stderr


def test_opacus_is_pinned_as_long_as_its_private_names_are_used() -> None:
    from opacus.grad_sample import gsm_base
    from opacus.grad_sample.grad_sample_module import GradSampleHooks

    assert GradSampleHooks
    assert gsm_base.OPACUS_PARAM_MONKEYPATCH_ATTRS
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "opacus>=1.6,<1.7" in project["dependencies"]


@pytest.mark.slow
def test_the_wheel_runs_a_scenario_on_ray_from_an_empty_folder(tmp_path: Path) -> None:
    """The dependencies are those of this environment; fedsim itself comes from the wheel alone."""
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    wheel = next(tmp_path.glob("fedsim_medical-*.whl"))
    files = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].partition("-")[0] for name in files} == {"fedsim", "fedsim_medical"}
    assert "fedsim/scenarios/isic_noniid_gdd.yaml" in files
    assert "fedsim/strategies/gdd.py" in files
    assert "fedsim/py.typed" in files
    # What an earlier build left behind is packed, too, where somebody builds in a used checkout.
    rooms = [(ROOT / "fedsim", "")] + [(ROOT / r, f"{r}/") for r in ("strategies", "clients")]
    there = {f"fedsim/{at}{p.relative_to(room)}" for room, at in rooms for p in room.rglob("*.py")}
    assert {name for name in files if name.endswith(".py")} == there | {
        f"fedsim/scenarios/{p.name}" for p in (ROOT / "scenarios").glob("*.py")
    }
    assert {"fedsim/report/templates/base.html", "fedsim/report/templates/base.css"} <= set(files)
    written = {f"fedsim/{path.relative_to(ROOT / 'fedsim')}" for path in TEMPLATES.rglob("*.txt")}
    assert len(written) == 3 + 5 * 4
    assert written <= set(files)

    venv = [sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")]
    subprocess.run(venv, check=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", str(wheel)], check=True)
    inner = next((tmp_path / "venv").glob("lib/python3*/site-packages"))
    (inner / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    empty = tmp_path / "empty"
    # A user's own folder of that name must not be taken for ours, in the driver or the workers.
    (empty / "strategies").mkdir(parents=True)
    (empty / "strategies" / "__init__.py").write_text("raise RuntimeError('not ours')\n")
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    fedsim = tmp_path / "venv" / "bin" / "fedsim"
    done = subprocess.run(
        [fedsim, "run", "isic_noniid_fedavg", "rounds=1", "data.embedded.images=400",
         "data.size=16", "model.width=8", "--backend", "ray", "--workers", "2"],
        cwd=empty, env=clean, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "round 1/1 | auc" in done.stdout
    where = subprocess.run(
        [python, "-c", "import fedsim; print(fedsim.__file__)"],
        cwd=empty, env=clean, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert str(inner) in where.stdout
