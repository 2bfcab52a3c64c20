"""captionlab: train, compare and use image-captioning systems."""

__version__ = "0.1.0"
