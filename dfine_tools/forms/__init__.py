"""Forms put on a model from outside: they change how it computes and never what it computes."""
