"""Steps of training that do not trust every row."""
