"""The dashboard: pages at /ui. They show what the API's own operations answer, and act through them."""
