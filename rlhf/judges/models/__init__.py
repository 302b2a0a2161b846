"""Judges that are sequence-classification models: how they are loaded and read."""
