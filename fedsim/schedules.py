"""Old name of `fedsim.method.schedules`, for the plugins that import it."""

from fedsim.method.schedules import *  # noqa: F403
