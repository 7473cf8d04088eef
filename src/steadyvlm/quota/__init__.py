"""QUOTA's arithmetic: from what calibration measured to a schedule of token budgets, and the file that holds it.

Source: Li et al. 2026, "Towards Joint Quantization and Token Pruning of Vision-Language Models", arXiv 2604.17320. The
text at hand has no equations; every reconstructed choice is a setting.
"""
