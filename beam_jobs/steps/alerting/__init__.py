"""Which rows become alerts, by the model's threshold or a budget; how severe they are; which are told. No Beam."""
