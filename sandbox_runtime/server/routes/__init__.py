"""The endpoints, a module for each topic; each lists its own in `ROUTES`."""
