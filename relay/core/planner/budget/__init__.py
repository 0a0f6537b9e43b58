"""The request budget of an account: limits read from headers, pacing, and the price of a request."""
