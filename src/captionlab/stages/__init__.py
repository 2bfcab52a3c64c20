"""One module per stage: read, work, write, say what was found. Stages never import one another."""
