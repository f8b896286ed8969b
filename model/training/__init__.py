"""From files to a version of a model: what only training needs."""
