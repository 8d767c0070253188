"""Graph passes: pure named functions ``Graph -> Graph``."""
