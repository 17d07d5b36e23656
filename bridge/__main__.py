"""`python -m bridge` is `espan-bridge`."""

from bridge.cli import main

if __name__ == "__main__":
    main(prog_name="espan-bridge")
