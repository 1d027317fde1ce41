"""How far a network is from equivariance, why, at any angle, and of which order the error is."""
