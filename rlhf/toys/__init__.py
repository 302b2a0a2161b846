"""Small worlds to try things in: a model from nothing, known games, users with a hidden wish."""
