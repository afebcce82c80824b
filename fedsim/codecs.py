"""Old name of `fedsim.wire.codecs`, for the plugins that import it."""

from fedsim.wire.codecs import *  # noqa: F403
