"""From features and captions to a trained checkpoint."""
