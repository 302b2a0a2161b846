"""Judges that are language models: what they are asked, where, and how their answers are read."""
