"""Running sweeps on clusters: Ray connections, jobs and launch files. No module of this package is specific to VAEs."""
