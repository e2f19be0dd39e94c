"""What a training will do and cost, and whether it will run, found out before it is started."""
