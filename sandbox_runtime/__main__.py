"""`python -m sandbox_runtime` is `sandbox-runtime`."""

from sandbox_runtime.cli import main

if __name__ == "__main__":
    main()
