"""Folders of language models: found, checked before anything starts, and loaded."""
