"""Values and forecasts that polling, the API and the proxy share."""
