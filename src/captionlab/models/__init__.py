"""The captioning systems: the decoder contract in ``base``, and one file a system. Knows no data, files or words."""
