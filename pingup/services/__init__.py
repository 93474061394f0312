"""What Pingup does, without SQL and without transport: one noun a module."""
