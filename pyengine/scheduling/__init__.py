"""Which rows run next: plans, and the scheduler that turns requests into them."""
