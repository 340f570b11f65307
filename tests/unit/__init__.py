from hypothesis import settings

# No deadline: on a busy machine of two cores a single example may take longer than 0.2 s.
settings.register_profile("unit", settings(), deadline=None)
settings.load_profile("unit")
