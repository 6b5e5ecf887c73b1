"""Search: the plan of missing runs, one Optuna study per arm, and the scheduler that chooses the next run."""
