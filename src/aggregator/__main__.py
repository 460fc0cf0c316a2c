"""The console script's entry: says what to install when only the light half is there."""

import sys


def main() -> None:
    try:
        from aggregator.cli import app
    except ImportError as error:
        sys.exit(f"usage-meter's service needs more than the middleware ({error}): pip install 'usage-meter[embedded]'")
    except KeyboardInterrupt:
        sys.exit(130)
    app()


if __name__ == "__main__":
    main()
