"""What derives from a method with a private form, and changes the plain one alone."""

from __future__ import annotations

from collections.abc import Sequence


def require_private_too(
    method: object, base: type, plain: Sequence[str], private: Sequence[str]
) -> None:
    """Refuse a method whose private form would do what its base does, and not what it does itself.

    Args:
        method: derives from `base`, which has a private form.
        base: the class that has it.
        plain: names of what the plain form calls and the private one does not.
        private: names of what the private form calls in their place.

    Raises:
        ValueError: one of `plain` is overridden and none of `private`.
    """
    own = type(method)

    def overridden(names: Sequence[str]) -> list[str]:
        return [name for name in names if getattr(own, name) is not getattr(base, name)]

    changed = overridden(plain)
    if changed and not overridden(private):
        raise ValueError(
            f"{own.__name__} overrides {' and '.join(changed)}, which private training does not "
            f'call: write private = "none" into the class, or override {private[0]}, too'
        )
