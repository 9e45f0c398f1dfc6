"""The agent: the one program of ours that runs inside every sandbox (floor 0)."""
