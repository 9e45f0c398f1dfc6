"""Owners of many sandboxes (layer 5)."""
