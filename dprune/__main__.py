"""`python -m dprune`, which is also what torchrun starts."""

from dprune.cli import cli

if __name__ == "__main__":
    cli(prog_name="dprune")
