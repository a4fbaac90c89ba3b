"""`python -m pipelines` is `mixopt`."""

from pipelines.cli import main

if __name__ == "__main__":
    main()
