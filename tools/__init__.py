"""What the project needs beside the package: it measures and documents ftcli, and is not part of the wheel."""
