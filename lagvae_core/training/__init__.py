"""Training of one trial: loop, gradient step, learning-rate decay, divergence, checkpoints and records."""
