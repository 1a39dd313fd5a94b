"""New volumes: written from guest bytes in any order, complete and durable before they get their names."""
