"""The suite's own, over this project's kinds."""

from enclave.testing.suite.test_large_commands import *  # noqa: F403
