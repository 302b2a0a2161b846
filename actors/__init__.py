"""Ray processes, each around one engine."""
