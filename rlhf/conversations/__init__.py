"""Logs of conversations with users: how they are read, and what of them is of use."""
