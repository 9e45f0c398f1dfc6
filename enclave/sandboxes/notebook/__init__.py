"""Notebook sandboxes, whatever their backend (floor 4): Jupyter kernels whose channels travel through the agent's stream."""
