"""What a user copies for CI: held against the schemas of its services, and run."""
