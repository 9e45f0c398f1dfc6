"""Programs in many languages: what each needs, and running one to a verdict."""
