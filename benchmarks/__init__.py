"""Measurements side by side with a peer, in one run, as a ratio. Never part of the tests."""
