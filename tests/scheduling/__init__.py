"""Plans and the scheduler."""
