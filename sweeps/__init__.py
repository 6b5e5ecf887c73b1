"""Sweeps: specification, search, execution, storage, analysis and command line. Ray and Optuna load when first used."""
