"""The captioning systems: the decoder contract in ``base`` and a file or folder for each system. No data or words."""
