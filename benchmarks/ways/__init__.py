"""The ways to run code that are compared: a file each, loaded by `benchmarks.driver` in a process of its own."""
