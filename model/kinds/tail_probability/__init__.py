"""How rare each value is: a detector that learns no more than that, and says it of each input."""
