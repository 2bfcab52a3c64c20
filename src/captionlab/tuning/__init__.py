"""Hyperparameter search, for captionlab tune."""
