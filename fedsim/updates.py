"""Old name of `fedsim.method.updates`, for the plugins that import it."""

from fedsim.method.updates import *  # noqa: F403
