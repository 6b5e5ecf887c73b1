"""Training of one trial: the loop, the gradient step, learning-rate decay, divergence, checkpoints and records."""
