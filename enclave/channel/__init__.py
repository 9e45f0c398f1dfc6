"""Our end of the stream to an agent (layer 2)."""
