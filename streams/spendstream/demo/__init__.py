"""The demo's world: services that call models, and what goes wrong with their bills."""
