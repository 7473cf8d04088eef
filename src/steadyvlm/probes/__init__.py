"""Numbers about hidden states and next-token distributions, from arrays: what a model does inside, not what it says."""
