"""The suite's own, over this project's kinds."""

from enclave.testing.suite.test_bounds import *  # noqa: F403
