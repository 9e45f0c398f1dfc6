"""The suite's own, over this project's kinds."""

from enclave.testing.suite.test_leftovers import *  # noqa: F403
