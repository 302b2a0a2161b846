"""The algorithm: prompts to preferences to losses, with no process or engine in sight."""
