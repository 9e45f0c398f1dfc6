"""Sandboxes from namespaces alone, without a daemon, through bubblewrap (floor 4)."""
