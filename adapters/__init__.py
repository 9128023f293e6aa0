"""Each folder in here is one adapter: a monitoring tool's own format translated into canonical alerts."""
