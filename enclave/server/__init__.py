"""The HTTP door (floor 6)."""
