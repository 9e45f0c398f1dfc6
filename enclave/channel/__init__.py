"""Our end of the stream to an agent (floor 2)."""
