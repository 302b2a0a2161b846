"""Many prompts at once into completions, and completions into pairs."""
