"""Additional studies of stored runs: which runs, which studies, and the tables of their results."""
