"""The command line under its documented import paths; see `enclave.cli`."""
