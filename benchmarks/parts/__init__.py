"""The parts of a run: each measures something and returns what the report shows of it."""
