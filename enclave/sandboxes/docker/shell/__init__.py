"""A sandbox's verbs by the engine's own calls and the image's shell, for images without Python (layer 4)."""
