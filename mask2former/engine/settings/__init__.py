"""What a run on own data is set to: its model, its settings and its length."""
