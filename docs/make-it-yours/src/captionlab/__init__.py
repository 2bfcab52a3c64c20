"""captionlab: a classifier of handwritten digits, trained by DVC and recorded in MLflow."""

__version__ = "0.1.0"
