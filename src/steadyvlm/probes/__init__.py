"""Numbers about hidden states, from arrays. Empty so far: no probe is implemented."""
