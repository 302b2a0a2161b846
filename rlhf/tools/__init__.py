"""Tools that a model may use while it answers: each takes a text, and gives one back."""
