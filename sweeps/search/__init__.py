"""Search: the plan of runs, samplers, one Optuna study per arm, and the choice of the next run."""
