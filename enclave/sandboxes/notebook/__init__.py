"""Notebook sandboxes, whatever their backend (layer 4): Jupyter kernels whose channels travel through the agent's stream."""
