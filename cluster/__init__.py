"""Where sweeps run: Ray connections, jobs and launch files. Contains nothing about VAEs."""
