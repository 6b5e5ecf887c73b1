"""Text: reading sentence files, vocabularies, batches of tokens and their corruption."""
