"""What is typed on the tour, in its order. README.md says what each part is about."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """One block of README.md, by its name there. `title` stands above it in the cast."""

    name: str
    title: str
    commands: tuple[str, ...]


STEPS = (
    Step(
        "list",
        "Everything is listed; nothing is downloaded",
        (
            "ls marketplaces datastores",
            "cd 'marketplaces/OpenNebula Public/Alpine Linux 3.20'",
            "ls -l",
        ),
    ),
    Step(
        "copy",
        "Copied, byte by byte as published",
        (
            "cp *.qcow2 CHECKSUMS ~",
            "(cd; sha256sum -c CHECKSUMS)",
            "cd ../../..",
            "rsync -ai datastores/files ~",
        ),
    ),
    Step(
        "raw",
        "The disk inside an image, without a conversion",
        (
            "qemu-img info raw/marketplaces/*/Alpine*/*.raw",
            "qemu-img compare ~/*.qcow2 raw/marketplaces/*/Alpine*/*.raw",
        ),
    ),
    Step(
        "part",
        "Only what is read is fetched",
        (
            "cd 'marketplaces/OpenNebula Public/Debian 12'",
            "tail -c 4M *.raw | sha256sum",
            "nebfs cache map *.raw",
        ),
    ),
    Step("explain", "Where an image is from, and how it is read", ("nebfs explain *.raw <*.raw",)),
    Step("status", "How the mount is", ("cd ../../..", "nebfs status -l")),
    Step(
        "dashboard",
        "The same in a browser",
        ("nebfs dashboard --no-browser --keep", "nebfs dashboard --stop"),
    ),
    Step("umount", "And gone", ('cd && nebfs umount "$OLDPWD"',)),
)
