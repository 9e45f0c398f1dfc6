"""Container images (layer 4): recipes of the few that are built here, pulling others, and unpacking them without an engine."""
