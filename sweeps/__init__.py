"""The service: search, schedule, store, analyse, command line. Ray and Optuna are imported when used."""
