"""The `lagvae` command: one module per group of verbs, the terminal, and the live display."""
