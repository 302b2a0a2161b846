"""Programs judged by their tests: found in answers, run in the sandbox, ranked by what passes."""
