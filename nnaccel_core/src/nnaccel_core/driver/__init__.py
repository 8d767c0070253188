"""Joins the stages: from a captured program to executables, and the `optimize` users call."""
