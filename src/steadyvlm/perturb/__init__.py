"""Changes of picture and text under which answers should stay. Empty so far: no suite is implemented."""
