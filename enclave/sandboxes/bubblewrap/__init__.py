"""Sandboxes from namespaces alone, without a daemon, through bubblewrap (layer 4)."""
