"""What is done with a model or a run: the command `dfine`, forms, export, runs, analysis, figures, pages."""
