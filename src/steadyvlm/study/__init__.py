"""Cross models, recipes and tasks into cells, run what is missing, and keep every answer.

Read in this order: `plan` (what was asked), `identity` (what a cell's address is made of), `cell` (one arm on one
task), `runner` (the order of things), `store` with `journal` and `table` (what is on disk), `result` (what came out).
"""
