"""What the commands beside the stages do."""
