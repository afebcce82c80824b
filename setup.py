"""Maps the three user folders at the top level into the package, as `fedsim.<folder>`.

As plain top-level packages they would collide with a user's own `strategies/` folder: Ray puts the
driver's working directory first on its workers' path. Everything else is in pyproject.toml.
"""

import shutil
from pathlib import Path

from setuptools import find_packages, setup

ROOMS = ("strategies", "clients", "scenarios")

# Modules that were moved since an earlier build would be packed, too.
shutil.rmtree(Path(__file__).parent / "build" / "lib", ignore_errors=True)

packages = find_packages(include=["fedsim", "fedsim.*"])
for room in ROOMS:
    packages += [f"fedsim.{room}"]
    packages += [f"fedsim.{room}.{inner}" for inner in find_packages(room)]

setup(packages=packages, package_dir={f"fedsim.{room}": room for room in ROOMS})
