"""Where sweeps run. Knows Ray, and nothing of VAEs."""
