"""A ladder of small models that infill, trained from scratch on the CPU: README.md."""
