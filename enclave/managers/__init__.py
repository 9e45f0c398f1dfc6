"""Owners of many sandboxes (floor 5)."""
