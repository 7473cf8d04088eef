"""The pocket VLM: a real, trained LLaVA small enough to ship, its synthetic scenes and its benchmark.

Everything here is offline. Results measured on it are results of *pocket*, never of a 7B model.
"""
