"""What people see of a run: metrics, evaluations, curves, the terminal, and wandb."""
