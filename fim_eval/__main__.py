"""`python -m fim_eval` is `fim-eval`."""

from fim_eval.cli import main

if __name__ == "__main__":
    main()
