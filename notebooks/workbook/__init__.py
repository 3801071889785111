"""What only the notebooks need: their figures (`viz`), sliders (`widgets`) and exercise checkers (`exercises`)."""
