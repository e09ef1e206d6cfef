"""The tables of the settings file: what is set about datastores, and about Ceph.

Each is one setting of nebfs/config.py, which alone imports this module.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from nebfs.config_kinds import LocalGroup, LocalUser, Place, ReadableFile, as_user

_SFTP = re.compile(r"sftp://([\w.$-]+@)?(\[[0-9A-Fa-f:.%]+\]|[\w.-]+)(:[0-9]+)?/[^?#]*", re.ASCII)

TABLE = ConfigDict(
    extra="forbid", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True
)


class Datastores(BaseModel):
    """The table ``[datastores]``."""

    model_config = TABLE

    paths: dict[str, str] = Field(default_factory=dict)
    """``[datastores.paths]``: a path prefix as the front-end says it = the same place here, or
    ``sftp://[user@]host[:port]/path`` on another machine."""
    ssh_user: str = Field(default="", pattern=r"^([A-Za-z0-9_][A-Za-z0-9._-]*[$]?)?$")
    """Who logs in on bridges and other machines; empty: as ~/.ssh/config says, or oneadmin."""
    ssh_identity_file: ReadableFile | None = None
    """The private key to show there; None: the agent's, and those in ~/.ssh."""
    ssh_known_hosts_file: ReadableFile | None = None
    """Host keys to believe in; None: those of ~/.ssh and /etc/ssh."""
    directories: tuple[str, ...] = ()
    """Directories of this machine below which images that are directories (virtiofs) are shown;
    empty: only what is below one that `paths` maps."""
    mappings: dict[str, str] = Field(default_factory=dict, repr=False)
    """``[datastores.mappings]``: a driver (DS_MAD) that nebfs does not know = where its images are,
    such as ``file:///dev/storpool/{source_base}``; see nebfs/datastores/mapping.py."""

    devices: tuple[str, ...] = ()
    """Block devices of this machine that may be read as images (dev): patterns of paths, in which
    ``*`` stands for a part of one name; empty: none."""
    lvm_mode: Literal["active-only", "activate", "extents"] = "active-only"
    """How a logical volume (lvm) is read that is not active on this machine: not at all, by making
    it active while it is read, or, if it is linear, from the disks that it is on."""

    iscsi_initiator: str = Field(
        default="", pattern=r"^((iqn\.[0-9]{4}-[0-9]{2}\.|eui\.|naa\.)[A-Za-z0-9:._-]{1,215})?$"
    )
    """The name by which nebfs logs in to iSCSI targets. Storage arrays (netapp, purefa) have mapped
    to it what nebfs may read; empty: they are not asked by iSCSI, and other targets
    (iscsi_libvirt) see QEMU's own name."""
    array_devices: tuple[str, ...] = ()
    """Directories in which the units of storage arrays have their names (WWIDs) on this machine;
    empty: /dev/mapper and /dev/disk/by-id."""

    @field_validator("devices")
    @classmethod
    def _below_something(cls, devices: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in devices:
            parts = pattern.split("/")
            if not pattern.startswith("/") or ".." in parts or not parts[1].strip("*?"):
                raise ValueError(f"{pattern!r} is not a path, or is everything")
        return devices

    @field_validator("array_devices", "directories")
    @classmethod
    def _some(cls, directories: tuple[str, ...]) -> tuple[str, ...]:
        for directory in directories:
            if not directory.startswith("/") or not directory.strip("/."):
                raise ValueError(f"{directory!r} is not an absolute path, or is everything")
        return directories

    @field_validator("mappings")
    @classmethod
    def _understood(cls, mappings: dict[str, str]) -> dict[str, str]:
        if not mappings:
            return mappings
        # Here: with it come the readers of disks, and numpy, a quarter of a second for --help.
        from nebfs.datastores.mapping import Place as MappedPlace  # noqa: PLC0415

        for driver, text in mappings.items():
            try:
                MappedPlace.of(text)
            except ValueError as exc:
                raise ValueError(f"of {driver!r}: {exc}") from exc
        return mappings

    @field_validator("paths")
    @classmethod
    def _absolute(cls, paths: dict[str, str]) -> dict[str, str]:
        for prefix in paths:
            if not prefix.startswith("/"):
                raise ValueError(f"{prefix!r} is not an absolute path")
        for prefix, place in paths.items():
            if not place.startswith("/") and not _SFTP.fullmatch(place):
                # The value is not repeated: somebody may have put a password into it.
                raise ValueError(
                    f"what {prefix!r} is mapped to is not an absolute path, nor"
                    " sftp://user@host/path without a password"
                )
        return paths

    @property
    def arrays(self) -> dict[str, object]:
        """What is set about storage arrays, in the words of nebfs/datastores/arrays.py."""
        return {"initiator": self.iscsi_initiator, "directories": self.array_devices}

    @property
    def ssh(self) -> dict[str, str]:
        """What is set about logging in on other machines, in the words of the driver ``fs``."""
        told = {
            "user": self.ssh_user,
            "identity": self.ssh_identity_file,
            "known-hosts": self.ssh_known_hosts_file,
        }
        return {name: str(value) for name, value in told.items() if value}


class Users(BaseModel):
    """The table ``[users]``: which users of OpenNebula and of this machine belong together."""

    model_config = TABLE

    uids: dict[str, LocalUser] = Field(default_factory=dict)
    """``[users.uids]``: a user of OpenNebula = the user of this machine, by name or number. Whoever
    is not there owns nothing here."""
    gids: dict[str, LocalGroup] = Field(default_factory=dict)
    """``[users.gids]``: a group of OpenNebula = the group of this machine, by name or number."""
    sessions: dict[LocalUser, Place] = Field(default_factory=dict)
    """``[users.sessions]``: a user of this machine, by name or number = the file with his session,
    ``user:password`` or ``user:token``, which nobody else may read but who runs nebfs."""
    home_sessions: bool = False
    """Whoever is not in ``[users.sessions]`` may have his session in ~/.one/one_auth, a file of his
    own."""

    @field_validator("sessions", mode="before")
    @classmethod
    def _one_each(cls, sessions: object) -> object:
        if not isinstance(sessions, dict):
            return sessions
        named: dict[int, object] = {}
        for name in sessions:
            uid = as_user(name)
            if uid == 0:
                raise ValueError("root sees what the mount's own session may, and needs none here")
            if uid in named:
                raise ValueError(f"{named[uid]!r} and {name!r} are the same user of this machine")
            named[uid] = name
        return sessions


class CephPlace(BaseModel):
    """How one Ceph cluster is entered."""

    model_config = TABLE

    conf: ReadableFile | None = None
    """A ceph.conf; None: the datastore's CEPH_CONF if it is here, or /etc/ceph/ceph.conf."""
    keyring: ReadableFile | None = None
    """The file with the user's key; None: the datastore's CEPH_KEY if it is here, or Ceph's own
    places."""
    user: str = Field(default="", pattern=r"^[^\s/\x00-\x1f]*$")
    """Without ``client.``; empty: the datastore's CEPH_USER."""

    @property
    def told(self) -> dict[str, str]:
        """What is set, as text."""
        told = {"conf": self.conf, "keyring": self.keyring, "user": self.user}
        return {name: str(value) for name, value in told.items() if value}


class Ceph(CephPlace):
    """The table ``[ceph]``: what holds for every datastore on Ceph."""

    datastores: dict[str, CephPlace] = Field(default_factory=dict)
    """``[ceph.datastores.NAME]``, the name or the id of one: what is different there."""
