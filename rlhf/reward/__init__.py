"""Models that learn to judge, from preferences."""
