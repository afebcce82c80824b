"""Old name of `fedsim.segmentation.label_views`, for the plugins that import it."""

from fedsim.segmentation.label_views import *  # noqa: F403
