"""The worker's image, and what runs beside it under Docker Compose."""
