"""Sandboxes that are Docker containers; the only place that imports docker (floor 4)."""
