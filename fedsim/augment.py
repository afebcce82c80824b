"""Old name of `fedsim.method.augment`, for the plugins that import it."""

from fedsim.method.augment import *  # noqa: F403
