"""CPython's own tests, run in sandboxes."""
