"""The hyperparameter search of captionlab tune."""
