"""A run from a command line to its end: checked, planned, put together, and started on Ray."""
