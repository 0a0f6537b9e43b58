"""Events and the sentences about them."""
