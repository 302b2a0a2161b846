"""The algorithm: prompts to preferences to losses; `launching` alone knows processes."""
