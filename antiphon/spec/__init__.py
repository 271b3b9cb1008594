"""What there is and what is asked: models, machines, jobs and plans, as pure data."""
