"""One module a stage: read, work, write, say what was found. Stages never import one another."""
