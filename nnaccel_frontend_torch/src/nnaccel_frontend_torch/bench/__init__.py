"""``nnaccel bench``: networks timed against the framework and its peers, every implementation in a process of its own."""
