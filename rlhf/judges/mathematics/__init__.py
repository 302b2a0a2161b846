"""Whether two mathematical answers are the same: by the rules of docs/models_and_data.md."""
