"""Sandboxes and the backends that make them (floor 4)."""
