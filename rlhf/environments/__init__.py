"""Environments: what answers the policy between its turns, and rewards what it did."""
