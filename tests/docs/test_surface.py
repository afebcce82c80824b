"""What methods import is what is documented: built-in ones, examples, templates and the guide."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")

MODULES = (
    "fedsim",
    "fedsim.adapters",
    "fedsim.adversaries",
    "fedsim.data",
    "fedsim.distillation",
    "fedsim.losses",
    "fedsim.method",
    "fedsim.models",
    "fedsim.models.auto_mri",
    "fedsim.privacy",
    "fedsim.robust",
    "fedsim.splitting",
    "fedsim.statistics",
    "fedsim.tasks",
    "fedsim.tasks.reconstruction",
    "fedsim.tasks.segmentation",
    "fedsim.testing",
    "fedsim.unlearning",
    "fedsim.wire",
)
"""Each documents its names in `__all__`."""

METHODS = re.compile(r"fedsim\.(strategies|clients)\.[a-z_]+")
"""Built-in methods, to derive from: their classes are public."""

TESTS_MAY = {("fedsim.registry", "default_registry")}
"""What tests of packages need beside: whether a name is installed."""

OLD = {
    "fedsim.augment": ("SiameseAugment", "perturb_statistics", "Transform", "OPERATIONS"),
    "fedsim.client": ("Client", "Site", "Task"),
    "fedsim.codecs": ("Codec", "encode_images", "decode_tensors", "image_bytes", "IMAGE_MEAN"),
    "fedsim.exchanges": ("Aggregated",),
    "fedsim.flower": (
        "assemble",
        "carriers",
        "dismantle",
        "load_state",
        "pack_state",
        "parameter_names",
        "tensor_record",
        "tensors",
        "unpack_state",
        "array_bytes",
    ),
    "fedsim.label_views": ("LabelView", "label_scheme", "BACKGROUND"),
    "fedsim.received": ("Received",),
    "fedsim.schedules": ("cosine",),
    "fedsim.strategy": ("MetricMeans", "Server", "Strategy", "examples"),
    "fedsim.training": ("Augmentation", "Batch", "augmentation", "endless_batches", "fit"),
    "fedsim.updates": ("Penalty", "load_received", "proximal_term", "update"),
}
"""Module -> names that plugins imported before there were documented modules."""


def _sources() -> Iterator[tuple[str, str]]:
    """Place and text of everything that shows how a method is written."""
    for room in ("strategies", "clients", "examples"):
        for path in sorted((ROOT / room).rglob("*.py")):
            yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "fedsim" / "authoring" / "templates").rglob("*.py.txt")):
        text = path.read_text(encoding="utf-8")
        yield str(path.relative_to(ROOT)), re.sub(r"@(\w+)@", r"\1_", text)
    guide = (ROOT / "docs" / "authoring.md").read_text(encoding="utf-8")
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", guide, re.DOTALL)):
        yield f"docs/authoring.md, block {number}", block


def _imports(text: str) -> Iterator[tuple[str, str]]:
    """(module, name) of all that a source imports from fedsim; the name is "" for a module."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module.split(".")[0] == "fedsim":
                yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((a.name, "") for a in node.names if a.name.split(".")[0] == "fedsim")


def _documented(module: str, name: str) -> bool:
    if module in MODULES:
        return not name or name in importlib.import_module(module).__all__
    return METHODS.fullmatch(module) is not None and bool(name) and not name.startswith("_")


def test_methods_examples_and_templates_import_what_is_documented() -> None:
    seen: set[str] = set()
    wrong = []
    for place, text in _sources():
        for module, name in _imports(text):
            seen.add(module)
            may = "test" in Path(place).name and (module, name) in TESTS_MAY
            conftest = place == "examples/conftest.py"
            if not (_documented(module, name) or may or conftest):
                wrong.append(f"{place}: from {module} import {name}")
    assert not wrong, "not documented:\n  " + "\n  ".join(wrong)
    assert set(MODULES) <= seen, f"nothing imports {set(MODULES) - seen}: is it public?"


@pytest.mark.parametrize("module", MODULES)
def test_each_module_has_its_names_and_the_reference_has_the_module(module: str) -> None:
    found = importlib.import_module(module)
    for name in found.__all__:
        assert hasattr(found, name), f"{module}.{name}"
        if module == "fedsim":
            assert f"::: fedsim.{name}\n" in REFERENCE + "\n", name
    assert len(set(found.__all__)) == len(found.__all__)
    if module != "fedsim":
        assert f"::: {module}\n" in REFERENCE
        assert (found.__doc__ or "").strip()


def test_the_reference_has_no_module_that_is_not_public() -> None:
    rooms = set(re.findall(r"^::: (fedsim\.[a-z_.]+)$", REFERENCE, re.MULTILINE))
    functions = {f"fedsim.{name}" for name in importlib.import_module("fedsim").__all__}
    assert rooms - functions - set(MODULES) == {
        "fedsim.observers.base",
        "fedsim.method.capabilities",
    }


@pytest.mark.parametrize(("module", "names"), OLD.items())
def test_old_names_are_the_same_objects(module: str, names: tuple[str, ...]) -> None:
    old = importlib.import_module(module)
    public = [importlib.import_module(one) for one in MODULES]
    for name in names:
        found = getattr(old, name)
        for new in public:
            if name in new.__all__ and (module, new.__name__) != ("fedsim.client", "fedsim.tasks"):
                assert getattr(new, name) is found or new.__name__ == "fedsim.tasks.segmentation", (
                    name
                )


def test_no_method_imports_what_draws_reports() -> None:
    for place, text in _sources():
        assert not [m for m, _ in _imports(text) if m.startswith("fedsim.report")], place
