"""The captioning systems: the decoder contract in ``base`` and one file for each system. No data, files or words."""
