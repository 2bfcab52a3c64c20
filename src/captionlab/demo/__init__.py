"""The demo page: a photo in, every system's caption side by side. For this machine; it calls no other."""
