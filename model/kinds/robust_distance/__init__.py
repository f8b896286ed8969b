"""How far a row lies from the middle, as features vary together."""
