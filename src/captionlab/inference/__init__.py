"""From a checkpoint and a photo to captions."""
