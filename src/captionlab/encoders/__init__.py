"""The CNNs by name, and how they turn photos into stored features."""
