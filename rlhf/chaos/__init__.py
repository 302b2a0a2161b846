"""Runs under random, seeded failures, compared with one that nothing has happened to."""
