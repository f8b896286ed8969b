"""How few random cuts part a row from the others."""
