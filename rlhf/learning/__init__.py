"""What the policy learns by: log-probabilities, frozen anchors, learning rates, a warm start."""
