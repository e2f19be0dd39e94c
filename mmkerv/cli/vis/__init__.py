"""Pictures of what a network has learnt: one module a command."""
