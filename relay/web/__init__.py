"""The dashboard: pages at /ui. They show the answers of the API's own operations, and act through them."""
