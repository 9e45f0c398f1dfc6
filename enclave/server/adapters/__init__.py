"""Surfaces for programs that speak another protocol than ours (layer 6)."""
