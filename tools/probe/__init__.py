"""Linear probes on the residual stream."""
