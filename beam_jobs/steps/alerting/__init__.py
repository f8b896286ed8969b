"""Which rows become alerts: by the model's threshold or by a budget, how severe they are. No Beam here."""
