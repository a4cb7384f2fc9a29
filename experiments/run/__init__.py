"""A run's life: its command, folder, loop, data, health and end."""
