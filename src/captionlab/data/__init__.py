"""What the systems learn from: cleaned words, the vocabulary, photos as pixels, stored features. Imports no torch."""
