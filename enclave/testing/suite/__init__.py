"""What holds for every kind of sandbox: each test runs unchanged over each of them. See `enclave.testing`."""
