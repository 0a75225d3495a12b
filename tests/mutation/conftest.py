"""The projects of tests/pipeline serve here too."""

from tests.pipeline.conftest import default, small

__all__ = ["default", "small"]
