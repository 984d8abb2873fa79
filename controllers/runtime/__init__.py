"""What every controller runs on: the work queue and the reconcile loop. Knows no kind."""
