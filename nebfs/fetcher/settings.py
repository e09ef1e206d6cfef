"""What the fetcher process is told when it starts. No secrets: it is visible in ``ps``."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, dataclass
from typing import Any

from nebfs import __version__


@dataclass(frozen=True, slots=True)
class FetcherSettings:
    """How the fetcher talks to the network. Times are seconds."""

    user_agent: str = f"nebfs/{__version__}"
    ca_file: str = ""
    """PEM file of the certificate authorities to trust; empty: the system's."""
    credentials_file: str = ""
    """TOML file that says what is shown to which place (access.py); empty: nothing to anybody."""
    connect_timeout: float = 10.0
    """Until a connection, with its TLS, stands; long enough for three lost SYNs."""
    stall_timeout: float = 15.0
    """The longest silence of a server that has been asked something."""
    trust_env: bool = True
    """Whether http_proxy, https_proxy, all_proxy and no_proxy are obeyed."""
    private_addresses: str = "allow"
    """Where images may be that their publishers say where they are; see http_private.py."""
    connections_per_host: int = 8
    """Connections to one host; requests beyond them wait for one to become free."""
    log_level: int = logging.INFO
    """As the logging module counts: 10 debug to 50 critical."""
    log_format: str = "auto"
    """See nebfs/logs.py."""

    def to_json(self) -> str:
        """Write the settings for the worker's command line."""
        facts = asdict(self)
        # The worker starts in another working directory.
        for name in ("ca_file", "credentials_file"):
            facts[name] = os.path.abspath(facts[name]) if facts[name] else ""
        return json.dumps(facts)

    @classmethod
    def from_json(cls, text: str) -> FetcherSettings:
        """Read what `to_json` wrote."""
        facts: dict[str, Any] = json.loads(text)
        return cls(**facts)
