"""The autoencoder: what a reading should be, from what all others are."""
