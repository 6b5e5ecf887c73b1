"""Sweeps: specification, search, execution, storage, analysis and command line. Ray and Optuna are imported lazily."""
