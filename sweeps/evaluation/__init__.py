"""Studies of stored runs: which runs, which studies, what is stored of what they find."""
