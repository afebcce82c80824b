"""The tiny federation of the engine's tests."""

from tests.engine.conftest import run_tiny, tiny  # noqa: F401 - fixtures
