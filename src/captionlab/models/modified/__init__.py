"""Report A's System 1 Modified, and report B's merge."""
