"""What tests share: one definition of each helper. Fixtures are in the `conftest.py` files."""
