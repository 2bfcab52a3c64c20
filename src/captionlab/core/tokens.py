"""The special tokens: the first four words of every vocabulary, and their numbers."""

SPECIALS = ("<pad>", "<start>", "<end>", "<unk>")
PAD, START, END, UNK = range(len(SPECIALS))
NEVER_GENERATED = (PAD, START, UNK)
