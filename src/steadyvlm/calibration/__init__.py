"""Showing a model examples: for quantisers that learn from them, and for schedules that are derived from them."""
