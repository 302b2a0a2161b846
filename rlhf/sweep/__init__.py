"""Many runs of one command: each ends alone, and at the end they are compared."""
