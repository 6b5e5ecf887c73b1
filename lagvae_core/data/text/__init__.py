"""Text: sentence files, vocabularies, batches of tokens, and the corruption of the decoder's input."""
