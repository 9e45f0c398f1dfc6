"""The command line: `ms-enclave` and `enclave` (layer 6). One file for each group of commands, loaded when it is called."""
