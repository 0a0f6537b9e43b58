"""The drop-in proxy but for its HTTP: callers' own requests passed on, the jobs they make tracked, reads answered."""
