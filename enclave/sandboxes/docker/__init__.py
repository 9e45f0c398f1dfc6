"""Sandboxes that are Docker containers; the only place that imports docker (layer 4)."""
