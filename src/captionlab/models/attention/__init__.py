"""Report A's attention over regions, and report B's over states."""
