"""Old name of `fedsim.method.training`, for the plugins that import it."""

from fedsim.method.training import *  # noqa: F403
