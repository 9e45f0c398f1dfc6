"""Sandboxes and the backends that make them (layer 4)."""
