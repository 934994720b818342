"""Does pyright know the type of each public name? `python tests/typed.py`, by `make types`.

Unknown may be only a class whose base another package does not type, such as scikit-learn's, and
what takes or returns such a class.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

COMMAND = (sys.executable, "-m", "pyright", "--ignoreexternal", "--verifytypes", "diffeo")
OF_OTHERS = ("Type of base class", "Type of metaclass")
FOLLOWS = ("Type of parameter", "Return type")


def main() -> int:
    """Print the score and what is unknown; 1 where that is a fault of this package."""
    # It takes the packages of the Python that is found first.
    paths = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    done = subprocess.run(
        (*COMMAND, "--outputjson"),
        env=os.environ | {"PATH": paths},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    found = json.loads(done.stdout)["typeCompleteness"]
    counts = found["exportedSymbolCounts"]
    print(f"{counts['withKnownType']} of {sum(counts.values())} public names have a known type")
    faults = 0
    for symbol in found["symbols"]:
        reasons = [each["message"].partition("\n")[0] for each in symbol["diagnostics"]]
        reasons = [reason for reason in reasons if not reason.startswith("No docstring")]
        if symbol["isExported"] and not symbol["isTypeKnown"]:
            own = [reason for reason in reasons if not reason.startswith((*OF_OTHERS, *FOLLOWS))]
            faults += bool(own or symbol["isTypeAmbiguous"])
            print(f"  {symbol['name']}: {'; '.join(reasons) or 'follows from the others'}")
    return int(faults > 0 or counts["withAmbiguousType"] > 0)


if __name__ == "__main__":
    sys.exit(main())
