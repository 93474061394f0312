"""One suite for every broker that Pingup runs with: what the contract promises, seen through the broker."""
