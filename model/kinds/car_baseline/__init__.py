"""The net to beat: the autoencoder of the reference architecture's author."""
