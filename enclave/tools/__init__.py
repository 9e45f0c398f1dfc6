"""What can be run in a sandbox (floor 3)."""
