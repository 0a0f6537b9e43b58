"""Connections to brokers: Kafka, NATS JetStream and RabbitMQ. Start at `publishers.py`."""
