"""Execution of sweeps: resources, workers, Ray Tune, the recorder that writes rows, the driver, and submitted jobs."""
