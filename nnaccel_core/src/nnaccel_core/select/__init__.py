"""Candidates and the choice between them."""
