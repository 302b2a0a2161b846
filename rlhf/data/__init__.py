"""Rows of files, and how their messages become tokens."""
