"""The service: search, schedule, store, analyse, command line. Imports are light here; Ray and Optuna come when used."""
