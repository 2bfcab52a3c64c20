"""The demo page: a photo in, every system's captions side by side. It sends no data to other computers."""
