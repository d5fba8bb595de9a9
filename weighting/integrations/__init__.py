"""The step object inside other people's trainers. Each module is imported on use, and needs the extra of its name."""
