"""``python -m captionlab.cli``, for torchrun and for processes that start captionlab."""

from captionlab.cli import main

main()
