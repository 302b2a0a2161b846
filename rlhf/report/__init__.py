"""A whole run on one page, which needs neither a network nor an account."""
