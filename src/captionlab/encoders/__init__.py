"""The CNNs and vision transformers by name, and how they turn photos into stored features."""
