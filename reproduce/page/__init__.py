"""The page of a folder of results: one HTML file that needs nothing beside it."""
