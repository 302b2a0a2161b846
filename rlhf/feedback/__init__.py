"""What users said of the replies they got: labels, and complaints to learn from."""
