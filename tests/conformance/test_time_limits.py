"""The suite's own, over this project's kinds."""

from enclave.testing.suite.test_time_limits import *  # noqa: F403
